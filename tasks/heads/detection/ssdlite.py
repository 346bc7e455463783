"""SSDLite: a one-stage detector on backbone maps and a chain of extra ones, without a pyramid.

SSD: Liu et al., https://arxiv.org/abs/1512.02325. SSDLite: Sandler et al., https://arxiv.org/abs/1801.04381.
Built from torchvision's classes; what differs: any backbone (its maps of reduction 16 and 32 come first), images of any
size, float32 outputs under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.dense import as_weights, in_float32
from dyvision.tasks.heads.detection.features import SSD_NORM, SSDFeatures
from dyvision.tasks.heads.detection.transform import DetectionTransform


def build_ssdlite(
    backbone: nn.Module,
    num_classes: int,
    config: DetectorConfig,
    *,
    min_reduction: int = 16,
    num_levels: int = 6,
    extra_channels: Sequence[int] = (512, 256, 256, 128),
    min_ratio: float = 0.2,
    max_ratio: float = 0.95,
    aspect_ratios: Sequence[float] = (2.0, 3.0),
    iou_threshold: float = 0.5,
    positive_fraction: float = 0.25,
    topk_candidates: int = 300,
) -> SSD:
    """Build SSDLite.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share; ``min_size`` is the side of the square that images are stretched to.
        min_reduction: Finest map; 8 for small objects.
        num_levels: Number of maps with the extra ones, each half as large as the one before.
        extra_channels: Channels of the extra maps; the last one repeats.
        min_ratio: Size of the boxes on the finest map as a fraction of the image.
        max_ratio: The same on the coarsest map.
        aspect_ratios: Width over height of the boxes beside the square ones; each stands for its inverse, too.
        iou_threshold: Boxes with at least this IoU are positive.
        positive_fraction: Positives among the boxes in the classification loss; the negatives are the hardest ones.
        topk_candidates: Detections per class that enter NMS.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    if not 0 < min_ratio < max_ratio:
        raise ValueError(f"min_ratio={min_ratio}, max_ratio={max_ratio}: expected 0 < min_ratio < max_ratio.")
    if not 0 < positive_fraction <= 1:
        raise ValueError(f"positive_fraction={positive_fraction}: expected more than 0 and at most 1.")
    if not extra_channels or min(extra_channels) < 1:
        raise ValueError(f"extra_channels={list(extra_channels)}: expected one or more positive numbers.")
    features = SSDFeatures(backbone, min_reduction, num_levels, list(extra_channels))
    levels = len(features.out_channels)
    boxes = DefaultBoxGenerator([list(aspect_ratios)] * levels, min_ratio=min_ratio, max_ratio=max_ratio)
    settings = {"score_thresh": 0.001, "nms_thresh": 0.55, "detections_per_img": 300, **config.post_processing()}
    model = SSD(
        features,
        boxes,
        (1, 1),  # replaced with the transform below
        num_classes + 1,
        head=_SSDLiteHead(features.out_channels, boxes.num_anchors_per_location(), num_classes + 1, SSD_NORM),
        iou_thresh=iou_threshold,
        positive_fraction=positive_fraction,
        topk_candidates=topk_candidates,
        **settings,
    )
    model.transform = DetectionTransform(config, features.size_divisible, square=True)
    return model


class _SSDLiteHead(SSDLiteHead):
    """Head with float32 outputs."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Compute ``cls_logits`` ``[B, boxes, classes + 1]`` and ``bbox_regression`` ``[B, boxes, 4]``."""
        return in_float32(super().forward(as_weights(x, self)))
