"""CondInst: instance segmentation without boxes' features, by a small network per instance.

Tian et al., "Conditional Convolutions for Instance Segmentation", ECCV 2020, https://arxiv.org/abs/2003.05664. Boxes
are FCOS' as in ``fcos``. A controller on the box branch predicts the 169 parameters of the instance's mask
network at every location; that network turns mask features and relative coordinates into a mask of the whole image.
Which locations learn masks follows the official code (``TOPK_PROPOSALS_PER_IM``); its auxiliary semantic loss, off by
default, is left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.ops import batched_nms, clip_boxes_to_image

from dyvision.layers.condinst import DynamicMaskHead, MaskController, dice_loss
from dyvision.signatures import takes
from dyvision.tasks.heads.detection.condinst_masks import MaskBranch, enlarge_masks, sample_targets, select_locations
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.dense import as_weights, in_float32
from dyvision.tasks.heads.detection.fcos import FCOSOptions, SizedFCOSHead, assemble_fcos, level_units


@takes(FCOSOptions)
def build_condinst(
    backbone: nn.Module,
    num_classes: int,
    config: DetectorConfig,
    *,
    mask_channels: int = 128,
    mask_convs: int = 4,
    mask_features: int = 8,
    mask_layers: int = 3,
    mask_width: int = 8,
    masks_per_image: int = 64,
    **shared: Any,
) -> CondInst:
    """Build CondInst.

    The finest pyramid level is also the stride of the mask features; the mask coordinates' units are those of FCOS.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        mask_channels: Channels of the mask branch.
        mask_convs: 3x3 convolutions of the mask branch after its levels are summed.
        mask_features: Channels of the mask features.
        mask_layers: 1x1 convolutions of an instance's network.
        mask_width: Channels between them.
        masks_per_image: Locations per image whose masks are trained, shared equally among its objects.
        **shared: Arguments of :class:`FCOSOptions`.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    if masks_per_image < 1:
        raise ValueError(f"masks_per_image={masks_per_image}: expected at least 1.")
    options = FCOSOptions(**shared)
    features = options.build_features(backbone, "p5")
    units = level_units("CondInst", features, options)
    stride = features.reductions[0]
    mask_head = DynamicMaskHead(
        mask_features,
        mask_width,
        mask_layers,
        feature_stride=stride,
        output_stride=math.gcd(4, stride),
        # a level is responsible for objects of up to 8 units: 64 pixels for P3, as in the official code
        sizes_of_interest=[round(8 * unit) for (unit,) in units],
    )
    branch = MaskBranch(options.fpn_channels, min(3, len(features.names)), mask_channels, mask_convs, mask_features)
    head = _CondInstHead(num_classes, options, mask_head, branch)
    head.reductions, head.masks_per_image = features.reductions, masks_per_image
    return assemble_fcos(CondInst, features, head, units, config, options)


class _CondInstHead(SizedFCOSHead):
    """FCOS' head with the controller on its box branch, the mask branch and the mask loss."""

    reductions: list[int]
    masks_per_image: int

    def __init__(self, num_classes: int, options: FCOSOptions, mask_head: DynamicMaskHead, branch: MaskBranch) -> None:
        super().__init__(num_classes, options)
        self.mask_head, self.mask_branch = mask_head, branch
        self.controller = MaskController(options.fpn_channels, mask_head)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Compute FCOS' outputs and ``parameters`` ``[B, L, P]``, one row per location, and ``mask_features``."""
        x = as_weights(x, self)
        boxes = self.regression_head
        towers = [boxes.conv(level) for level in x]
        outputs = {
            "cls_logits": self.classification_head(x),
            "bbox_regression": _rows([torch.relu(boxes.bbox_reg(tower)) for tower in towers]),
            "bbox_ctrness": _rows([boxes.bbox_ctrness(tower) for tower in towers]),
            "parameters": _rows([self.controller(tower) for tower in towers]),
            "mask_features": self.mask_branch(x),
        }
        counts = torch.tensor([level.shape[-2] * level.shape[-1] for level in x], device=x[0].device)
        levels = torch.arange(len(x), device=x[0].device).repeat_interleave(counts)
        return {**in_float32(outputs), "levels": levels}

    def predict_masks(self, outputs: dict[str, Tensor], anchors: Tensor, image: Tensor, rows: Tensor) -> Tensor:
        """Compute masks of the whole image.

        Args:
            outputs: Of :meth:`forward`.
            anchors: ``[L, 4]``; they are the same for every image.
            image: ``[N]``, the index of each instance's image.
            rows: ``[N]``, its location.

        Returns:
            Probabilities ``[N, 1, h, w]``.
        """
        level = outputs["levels"][rows]
        # torchvision's points are the upper left corners of the cells, the mask features' the centres
        half = torch.tensor(self.reductions, device=rows.device)[level] // 2
        locations = (anchors[rows, :2] + anchors[rows, 2:]) / 2 + half[:, None]
        # coordinates reach 20 units at the far side of a photograph: too coarse in half precision
        with torch.autocast(rows.device.type, enabled=False):
            parameters = outputs["parameters"][image, rows]
            return self.mask_head(outputs["mask_features"], parameters, locations, image, level).sigmoid()

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """FCOS' losses and ``mask``, the mean dice loss of the chosen locations."""
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        scores = _location_scores(head_outputs).amax(-1).detach()
        rows = [select_locations(*pair, self.masks_per_image) for pair in zip(matched_idxs, scores, strict=True)]
        image = torch.repeat_interleave(torch.tensor([len(row) for row in rows], device=scores.device))
        masks = self.predict_masks(head_outputs, anchors[0], image, torch.cat(rows))[:, 0]
        size = (masks.shape[-2], masks.shape[-1])
        truth = [
            sample_targets(target["masks"][matched[row]], self.mask_head.output_stride, size)
            for target, matched, row in zip(targets, matched_idxs, rows, strict=True)
        ]
        # a sum, because the mean of no instance is not a number
        return {**losses, "mask": dice_loss(masks, torch.cat(truth)).sum() / max(1, len(masks))}


class CondInst(FCOS):
    """FCOS whose detections have masks; built by :func:`build_condinst`."""

    predicts_masks = True

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Compute losses (in training) or detections.

        Args:
            images: ``[3, H_i, W_i]`` each, in 0..1.
            targets: In training ``boxes`` ``[N, 4]``, ``labels`` ``[N]`` from 0 and ``masks`` ``[N, H_i, W_i]``.

        Returns:
            Losses by name, or per image ``boxes``, ``scores``, ``labels`` and ``masks`` ``[N, 1, H_i, W_i]`` in 0..1.
        """
        given = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets)
        maps = list(self.backbone(batch.tensors).values())
        outputs = self.head(maps)
        anchors = self.anchor_generator(batch, maps)
        if self.training:
            if targets is None:
                raise ValueError("targets=None: training needs a target for every image.")
            counts = [level.shape[-2] * level.shape[-1] for level in maps]
            return self.compute_loss(targets, outputs, anchors, counts)
        scores = _location_scores(outputs)
        detections = []
        for number, resized in enumerate(batch.image_sizes):
            found, rows = self._select(scores[number], outputs, anchors[number], number, resized)
            masks = self.head.predict_masks(outputs, anchors[number], torch.full_like(rows, number), rows)
            (found,) = self.transform.postprocess([found], [resized], [given[number]])
            masks = enlarge_masks(masks, self.head.mask_head.output_stride, resized, given[number])
            detections.append({**found, "masks": masks})
        return detections

    def _select(
        self, scores: Tensor, outputs: dict[str, Tensor], anchors: Tensor, number: int, size: tuple[int, int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Choose one image's detections as torchvision's FCOS does, which does not tell their locations."""
        candidates = []
        flat, num_classes = scores.flatten(), scores.shape[1]
        levels = outputs["levels"].repeat_interleave(num_classes)
        for level in range(len(self.head.reductions)):
            index = torch.where((flat > self.score_thresh) & (levels == level))[0]
            candidates.append(index[flat[index].topk(min(len(index), self.topk_candidates)).indices])
        index = torch.cat(candidates)
        rows, labels = index // num_classes, index % num_classes
        boxes = self.box_coder.decode(outputs["bbox_regression"][number, rows], anchors[rows])
        boxes = clip_boxes_to_image(boxes, size)
        keep = batched_nms(boxes, flat[index], labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[keep], "scores": flat[index][keep], "labels": labels[keep]}, rows[keep]


def _rows(maps: list[Tensor]) -> Tensor:
    """Flatten maps ``[B, C, H, W]`` into one row per location, ``[B, L, C]``."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)


def _location_scores(outputs: dict[str, Tensor]) -> Tensor:
    """``[B, L, classes]``: geometric mean of class score and centre-ness."""
    return torch.sqrt(outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid())
