"""Mask R-CNN: Faster R-CNN with a mask for each box. He et al., https://arxiv.org/abs/1703.06870."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from dyvision.signatures import takes
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.rcnn import RCNNOptions, roi_align
from dyvision.tasks.heads.detection.transform import DetectionTransform


@takes(RCNNOptions)
def build_mask_rcnn(
    backbone: nn.Module,
    num_classes: int,
    config: DetectorConfig,
    *,
    mask_convs: int = 4,
    mask_channels: int = 256,
    mask_resolution: int = 14,
    **shared: Any,
) -> MaskRCNN:
    """Build Mask R-CNN; the arguments of Faster R-CNN and three of its own.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        mask_convs: 3x3 convolutions of the mask head.
        mask_channels: Their channels.
        mask_resolution: Side of the maps pooled for the mask head; masks have twice that.
        **shared: Arguments of :class:`RCNNOptions`.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    if mask_convs < 1:
        raise ValueError(f"mask_convs={mask_convs}: expected at least 1.")
    options = RCNNOptions(**shared)
    features = options.build_features(backbone, "pool")
    parts = options.build_parts(features, num_classes)
    model = MaskRCNN(
        features,
        mask_roi_pool=roi_align(features, mask_resolution, options.anchor_scale),
        mask_head=_MaskHead(options.fpn_channels, (mask_channels,) * mask_convs, 1),
        mask_predictor=_MaskPredictor(mask_channels, mask_channels, num_classes + 1),
        **parts,
        **config.post_processing("box_"),
    )
    model.transform = DetectionTransform(config, features.size_divisible)
    return model


# Inputs follow the weights' dtype (bfloat16 models), outputs are float32 (autocast).


class _MaskHead(MaskRCNNHeads):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(next(self.parameters()).dtype))


class _MaskPredictor(MaskRCNNPredictor):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(torch.float32)
