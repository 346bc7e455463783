"""Faster R-CNN on a feature pyramid. Ren et al., https://arxiv.org/abs/1506.01497."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN

from dyvision.signatures import takes
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.rcnn import RCNNOptions
from dyvision.tasks.heads.detection.transform import DetectionTransform


@takes(RCNNOptions)
def build_faster_rcnn(backbone: nn.Module, num_classes: int, config: DetectorConfig, **options: Any) -> FasterRCNN:
    """Build Faster R-CNN.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        **options: Arguments of :class:`RCNNOptions`.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    chosen = RCNNOptions(**options)
    features = chosen.build_features(backbone, "pool")
    model = FasterRCNN(features, **chosen.build_parts(features, num_classes), **config.post_processing("box_"))
    model.transform = DetectionTransform(config, features.size_divisible)
    return model
