"""Two-stage detectors on a feature pyramid: Faster R-CNN and Mask R-CNN.

Faster R-CNN: Ren et al., https://arxiv.org/abs/1506.01497. Mask R-CNN: He et al., https://arxiv.org/abs/1703.06870.
Built from torchvision's classes; what differs: any backbone, RoIAlign scales from the reductions of its maps
(torchvision guesses them from the first batch, wrongly for images smaller than the padding), heads of any width,
float32 boxes under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from dyvision.tasks.heads.detection.anchors import level_sizes
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.features import PyramidFeatures
from dyvision.tasks.heads.detection.transform import DetectionTransform

_RATIOS = (0.5, 1.0, 2.0)


def build_faster_rcnn(
    backbone: nn.Module,
    num_classes: int,
    config: DetectorConfig,
    *,
    fpn_channels: int = 256,
    min_reduction: int = 4,
    extra_levels: bool = True,
    anchor_scale: float = 1.0,
    anchor_sizes: Sequence[float | Sequence[float]] | None = None,
    aspect_ratios: Sequence[float] = _RATIOS,
    rpn_convs: int = 1,
    rpn_batch_size_per_image: int = 256,
    rpn_proposals_train: int = 2000,
    rpn_proposals_test: int = 1000,
    box_batch_size_per_image: int = 512,
    box_resolution: int = 7,
    representation_size: int = 1024,
) -> FasterRCNN:
    """Build Faster R-CNN.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        fpn_channels: Channels of the pyramid.
        min_reduction: Finest pyramid level; the paper's is 4.
        extra_levels: Add one coarser level for the proposals.
        anchor_scale: Factor on the default anchor size (8 times the reduction) and on the object size that decides from
            which level a box is pooled (224 pixels: reduction 16); below 1 for small images.
        anchor_sizes: Anchor sizes in pixels instead, per level a number or several.
        aspect_ratios: Height over width of the anchors.
        rpn_convs: 3x3 convolutions of the proposal head.
        rpn_batch_size_per_image: Anchors per image in the proposal loss.
        rpn_proposals_train: Proposals before and after NMS in training.
        rpn_proposals_test: Proposals before and after NMS in evaluation.
        box_batch_size_per_image: Proposals per image in the box loss.
        box_resolution: Side of the pooled maps.
        representation_size: Channels of the two hidden layers of the box head.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    features = PyramidFeatures(backbone, fpn_channels, min_reduction, "pool" if extra_levels else None)
    arguments = _box_arguments(
        features, num_classes, anchor_scale, anchor_sizes, aspect_ratios, rpn_convs, box_resolution, representation_size
    )
    model = FasterRCNN(
        features,
        **arguments,
        **_sampling(rpn_batch_size_per_image, rpn_proposals_train, rpn_proposals_test, box_batch_size_per_image),
        **config.post_processing("box_"),
    )
    model.transform = DetectionTransform(config, features.size_divisible)
    return model


def build_mask_rcnn(
    backbone: nn.Module,
    num_classes: int,
    config: DetectorConfig,
    *,
    fpn_channels: int = 256,
    min_reduction: int = 4,
    extra_levels: bool = True,
    anchor_scale: float = 1.0,
    anchor_sizes: Sequence[float | Sequence[float]] | None = None,
    aspect_ratios: Sequence[float] = _RATIOS,
    rpn_convs: int = 1,
    rpn_batch_size_per_image: int = 256,
    rpn_proposals_train: int = 2000,
    rpn_proposals_test: int = 1000,
    box_batch_size_per_image: int = 512,
    box_resolution: int = 7,
    representation_size: int = 1024,
    mask_convs: int = 4,
    mask_channels: int = 256,
    mask_resolution: int = 14,
) -> MaskRCNN:
    """Build Mask R-CNN; the arguments of Faster R-CNN and three of its own.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        fpn_channels: Channels of the pyramid.
        min_reduction: Finest pyramid level; the paper's is 4.
        extra_levels: Add one coarser level for the proposals.
        anchor_scale: As for Faster R-CNN.
        anchor_sizes: As for Faster R-CNN.
        aspect_ratios: Height over width of the anchors.
        rpn_convs: 3x3 convolutions of the proposal head.
        rpn_batch_size_per_image: Anchors per image in the proposal loss.
        rpn_proposals_train: Proposals before and after NMS in training.
        rpn_proposals_test: Proposals before and after NMS in evaluation.
        box_batch_size_per_image: Proposals per image in the box loss.
        box_resolution: Side of the maps pooled for the box head.
        representation_size: Channels of the two hidden layers of the box head.
        mask_convs: 3x3 convolutions of the mask head.
        mask_channels: Their channels.
        mask_resolution: Side of the maps pooled for the mask head; masks have twice that.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    if mask_convs < 1:
        raise ValueError(f"mask_convs={mask_convs}: expected at least 1.")
    features = PyramidFeatures(backbone, fpn_channels, min_reduction, "pool" if extra_levels else None)
    arguments = _box_arguments(
        features, num_classes, anchor_scale, anchor_sizes, aspect_ratios, rpn_convs, box_resolution, representation_size
    )
    model = MaskRCNN(
        features,
        mask_roi_pool=_roi_align(features, mask_resolution, anchor_scale),
        mask_head=_MaskHead(fpn_channels, (mask_channels,) * mask_convs, 1),
        mask_predictor=_MaskPredictor(mask_channels, mask_channels, num_classes + 1),
        **arguments,
        **_sampling(rpn_batch_size_per_image, rpn_proposals_train, rpn_proposals_test, box_batch_size_per_image),
        **config.post_processing("box_"),
    )
    model.transform = DetectionTransform(config, features.size_divisible)
    return model


def _sampling(rpn_batch: int, proposals_train: int, proposals_test: int, box_batch: int) -> dict[str, int]:
    return {
        "rpn_batch_size_per_image": rpn_batch,
        "rpn_pre_nms_top_n_train": proposals_train,
        "rpn_post_nms_top_n_train": proposals_train,
        "rpn_pre_nms_top_n_test": proposals_test,
        "rpn_post_nms_top_n_test": proposals_test,
        "box_batch_size_per_image": box_batch,
    }


def _box_arguments(
    features: PyramidFeatures,
    num_classes: int,
    anchor_scale: float,
    anchor_sizes: Sequence[float | Sequence[float]] | None,
    aspect_ratios: Sequence[float],
    rpn_convs: int,
    box_resolution: int,
    representation_size: int,
) -> dict[str, Any]:
    if rpn_convs < 1:
        raise ValueError(f"rpn_convs={rpn_convs}: expected at least 1.")
    defaults = [[8 * reduction * anchor_scale] for reduction in features.reductions]
    sizes = level_sizes(anchor_sizes, defaults, features.reductions)
    anchors = AnchorGenerator(sizes, (tuple(aspect_ratios),) * len(sizes))
    channels = features.out_channels
    return {
        "rpn_anchor_generator": anchors,
        "rpn_head": _ProposalHead(channels, anchors.num_anchors_per_location()[0], rpn_convs),
        "box_roi_pool": _roi_align(features, box_resolution, anchor_scale),
        "box_head": _BoxHead(channels * box_resolution**2, representation_size),
        "box_predictor": _BoxPredictor(representation_size, num_classes + 1),
    }


def _roi_align(features: PyramidFeatures, resolution: int, scale: float) -> MultiScaleRoIAlign:
    """RoIAlign on the levels that come from the backbone, with their true scales."""
    reductions = features.reductions[: len(features.names)]
    pool = MultiScaleRoIAlign(features.names, resolution, sampling_ratio=2)
    pool.scales = [1 / reduction for reduction in reductions]
    # FPN, equation 1: a box of 224 pixels is pooled from reduction 2**4
    finest = round(math.log2(reductions[0]))
    pool.map_levels = LevelMapper(finest, finest + len(reductions) - 1, canonical_scale=224 * scale, canonical_level=4)
    return pool


# Inputs follow the weights' dtype (bfloat16 models), outputs are float32 (autocast): boxes are decoded from them.


class _ProposalHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward([level.to(self.cls_logits.weight.dtype) for level in x])
        return [level.float() for level in logits], [level.float() for level in deltas]


class _BoxHead(TwoMLPHead):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.fc6.weight.dtype))


class _BoxPredictor(FastRCNNPredictor):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class _MaskHead(MaskRCNNHeads):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(next(self.parameters()).dtype))


class _MaskPredictor(MaskRCNNPredictor):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(torch.float32)
