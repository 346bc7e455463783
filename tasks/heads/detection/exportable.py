"""One-stage detectors as one function of a batch of images of one size, which can be traced and written into files.

torchvision's detectors take lists of images and go through them one by one; their exported forms hold for the images
they were traced with. Here the same steps are put together from the detector's parts: sizes and anchors are fixed, and
what depends on the images is two operators (``dyvision.export.detections``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import clip_boxes_to_image

from dyvision.export.deciding import DecidingNetwork
from dyvision.export.detections import nms_by_class, top_scores
from dyvision.ops.geometry import pair
from dyvision.tasks.heads.detection.agreement import Candidates, Detections, largest_disagreement
from dyvision.tasks.heads.detection.create import Detector
from dyvision.tasks.heads.detection.transform import DetectionTransform

#: what can be exported: heads with one stage and no masks
EXPORTABLE = ("fcos", "retinanet", "ssdlite")


class ExportableDetector(DecidingNetwork):
    """A detector of images ``[B, C, H, W]`` in 0..1, of one size, that gives what the detector gives.

    ``image_size`` is that of the images it is called with. If the detector resizes images (``min_size``, ``max_size``),
    this does the same with images of that size, and so does an exported file: boxes are in pixels of the image given.

    The outputs are ``boxes`` ``[B, D, 4]`` (xyxy), ``scores`` ``[B, D]``, ``labels`` ``[B, D]`` in 1..num_classes and
    ``count`` ``[B]``, the number of detections of each image; D is the detector's ``detections_per_image``, and rows
    from ``count`` on are zeros. Which of several detections with exactly the same score comes first is the same as in
    the detector here, but for other programs to choose.

    Args:
        detector: Of a head with one stage: FCOS, RetinaNet or SSDLite. It is copied.
        image_size: Height and width, or an int for squares.

    Raises:
        ValueError: If its head cannot be exported, or the size is none.

    Example:
        >>> from dyvision.tasks.heads.detection import create_detector
        >>> from dyvision.tasks.heads.detection.exportable import ExportableDetector
        >>> import dyvision
        >>> backbone = dyvision.create_backbone("mobilenetv2_035")
        >>> network = ExportableDetector(create_detector("fcos", backbone, num_classes=3), (96, 128)).eval()
    """

    outputs = ("boxes", "scores", "labels", "count")
    anchors: Tensor
    scale: Tensor

    def __init__(self, detector: Detector, image_size: int | Sequence[int]) -> None:
        super().__init__()
        check_exportable(detector)
        size = pair("image_size", image_size, 1)
        model: Any = copy.deepcopy(detector.model).eval().requires_grad_(False)
        self.dense = _DensePredictions(model, size)
        self.first_label = detector.first_label
        self.by_class = isinstance(model, SSD)
        # torchvision's coders for [N, 4]
        self.decode_boxes = model.box_coder.decode if isinstance(model, FCOS) else model.box_coder.decode_single
        self.score_threshold, self.iou_threshold = float(model.score_thresh), float(model.nms_thresh)
        self.topk_candidates, self.detections_per_image = model.topk_candidates, model.detections_per_img
        with torch.no_grad():
            batch, maps = self.dense.maps(torch.zeros(1, len(self.dense.mean), *size, device=self.dense.mean.device))
            per_location = model.anchor_generator.num_anchors_per_location()
            shapes = [level.shape[-2:] for level in maps]
            self.level_sizes = [h * w * number for (h, w), number in zip(shapes, per_location, strict=True)]
            anchors = model.anchor_generator(ImageList(batch, [self.dense.resized]), maps)[0]
            scale = resize_boxes(torch.ones(1, 4, device=anchors.device), list(self.dense.resized), list(size))
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("scale", scale[0], persistent=False)

    def decide(self, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Choose the detections of each image among the predictions of the head."""
        scores = self._scores(dense)
        num_classes, limit = scores.shape[2], self.detections_per_image
        rows, labels, best = self._candidates_of_classes(scores) if self.by_class else self._candidates(scores)
        boxes = self._decode(dense, rows)
        groups = num_classes if self.by_class else 1
        count = min(limit, best.shape[1])
        places, number = nms_by_class(boxes, best, labels, num_classes, groups, self.iou_threshold, count)
        empty = torch.arange(count, device=places.device) >= number[:, None]
        found = {
            "boxes": boxes.gather(1, places[..., None].expand(-1, -1, 4)) * self.scale,
            "scores": best.gather(1, places),
            "labels": labels.gather(1, places) + self._label_of_class_0,
        }
        return {**{name: _fill(value, empty, limit) for name, value in found.items()}, "count": number}

    def disagreement(self, dense: Mapping[str, Tensor], decided: Mapping[str, Tensor], slack: float) -> float:
        """How far given detections are from following from the predictions of the head; see :mod:`.agreement`."""
        scores = self._scores(dense)
        worst = 0.0
        for number in range(len(scores)):
            found = Detections(*(decided[name][number] for name in ("boxes", "scores", "labels", "count")))
            image = {name: value[number : number + 1] for name, value in dense.items()}

            def candidates(index: Tensor, image: Mapping[str, Tensor] = image) -> Tensor:
                return self._decode(image, index[None])[0] * self.scale

            groups = scores[number].unbind(1) if self.by_class else scores[number].split(self.level_sizes)
            worst = max(
                worst,
                largest_disagreement(
                    found,
                    Candidates.near(
                        groups, self.by_class, candidates, self.score_threshold, self.topk_candidates, slack
                    ),
                    self.iou_threshold,
                    slack,
                    first_label=self._label_of_class_0,
                ),
            )
        return worst

    @property
    def _label_of_class_0(self) -> int:
        # SSD's scores have lost their first class here, the background
        return self.first_label + int(self.by_class)

    def _scores(self, dense: Mapping[str, Tensor]) -> Tensor:
        """``[B, anchors, classes]``."""
        logits = dense["cls_logits"]
        if self.by_class:
            return logits.softmax(-1)[..., 1:]
        scores = logits.sigmoid()
        return torch.sqrt(scores * dense["bbox_ctrness"].sigmoid()) if "bbox_ctrness" in dense else scores

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of anchor and class of each level: anchors, classes and scores ``[B, M]``."""
        found, start, num_classes = [], 0, scores.shape[2]
        for level in scores.split(self.level_sizes, 1):
            flat = level.flatten(1)
            best, places = top_scores(flat, min(self.topk_candidates, flat.shape[1]), self.score_threshold)
            rows = torch.div(places, num_classes, rounding_mode="floor")
            found.append((rows + start, places - rows * num_classes, best))
            start += level.shape[1]
        rows, labels, best = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return rows, labels, best

    def _candidates_of_classes(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best anchors of each class, one class after the other."""
        num_anchors, num_classes = scores.shape[1:]
        count = min(self.topk_candidates, num_anchors)
        flat = scores.transpose(1, 2).reshape(-1, num_anchors)
        best, rows = (each.reshape(-1, num_classes * count) for each in top_scores(flat, count, self.score_threshold))
        labels = torch.arange(num_classes, device=scores.device).repeat_interleave(count)
        return rows, labels.expand_as(rows), best

    def _decode(self, dense: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Boxes ``[B, M, 4]`` of anchors ``[B, M]``, in pixels of the resized image."""
        shifts = dense["bbox_regression"].gather(1, rows[..., None].expand(-1, -1, 4))
        boxes = self.decode_boxes(shifts.flatten(0, 1), self.anchors[rows.flatten()])
        return clip_boxes_to_image(boxes, self.dense.resized).view(shifts.shape)


def _fill(value: Tensor, empty: Tensor, limit: int) -> Tensor:
    """``[B, limit, ...]`` with zeros where there is no detection."""
    after = (0,) * (value.dim() - 2)
    value = value.masked_fill(empty.reshape(*empty.shape, *(1 for _ in after)), 0)
    missing = limit - value.shape[1]
    return F.pad(value, (*after, *after, 0, missing)) if missing else value


class _DensePredictions(nn.Module):
    """What the head predicts at every anchor, for images of one size."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        super().__init__()
        transform, weight = model.transform, next(model.parameters())
        self.backbone, self.head, self.size = model.backbone, model.head, size
        for name, values in (("mean", transform.image_mean), ("std", transform.image_std)):
            values = torch.tensor(values, dtype=weight.dtype, device=weight.device)[:, None, None]
            self.register_buffer(name, values, persistent=False)
        example = torch.zeros(len(self.mean), *size, dtype=weight.dtype, device=weight.device)
        batch, _ = transform([example])
        self.resized = (int(batch.image_sizes[0][0]), int(batch.image_sizes[0][1]))
        height, width = batch.tensors.shape[-2:]
        self.padding = (0, width - self.resized[1], 0, height - self.resized[0])

    def maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images as the backbone gets them, and its maps."""
        if tuple(images.shape[1:]) != (len(self.mean), *self.size):
            expected = f"[B, {len(self.mean)}, {self.size[0]}, {self.size[1]}]"
            raise ValueError(f"images of shape {list(images.shape)}: this detector takes {expected} (image_size).")
        x = (images - self.mean) / self.std
        if self.resized != self.size:
            x = F.interpolate(x, size=self.resized, mode="bilinear", align_corners=False)
        x = F.pad(x, self.padding)
        maps = self.backbone(x)
        return x, [maps] if isinstance(maps, Tensor) else list(maps.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``cls_logits`` ``[B, anchors, classes]``, ``bbox_regression`` ``[B, anchors, 4]``, FCOS' ``bbox_ctrness``."""
        outputs: dict[str, Tensor] = self.head(self.maps(images)[1])
        return outputs


def check_exportable(detector: Detector) -> None:
    """Check that a detector can be exported.

    Raises:
        ValueError: If it cannot; the message names its head and those that can.
    """
    model, steps = detector.model, ("forward", "postprocess_detections")
    kind = next((kind for kind in (FCOS, RetinaNet, SSD) if isinstance(model, kind)), None)
    # a subclass with other steps, as CondInst, would not be what is put together here
    if kind is None or any(getattr(type(model), step) is not getattr(kind, step) for step in steps):
        raise ValueError(
            f"the head {type(model).__name__} cannot be exported: only heads with one stage and without masks can "
            f"({', '.join(EXPORTABLE)})."
        )
    transform = model.transform
    if type(transform) not in (DetectionTransform, GeneralizedRCNNTransform):
        raise ValueError(f"{type(transform).__name__} cannot be exported: expected a DetectionTransform.")
