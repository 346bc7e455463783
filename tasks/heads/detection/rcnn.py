"""What the detectors with two stages on a feature pyramid have in common.

Built from torchvision's classes; what differs: any backbone, RoIAlign scales from the reductions of its maps
(torchvision guesses them from the first batch, wrongly for images smaller than the padding), heads of any width,
float32 boxes under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from dyvision.tasks.heads.detection.anchors import level_sizes
from dyvision.tasks.heads.detection.features import PyramidFeatures
from dyvision.tasks.heads.detection.options import PyramidOptions


@dataclass(frozen=True, kw_only=True)
class RCNNOptions(PyramidOptions):
    """Of detectors with two stages: those of every head on a pyramid, and these.

    The finest level of the papers is 4; one extra level is for the proposals. The default anchor size is 8 times the
    reduction; ``anchor_scale`` is a factor on the object size that decides from which level a box is pooled, too (224
    pixels: reduction 16).

    Args:
        aspect_ratios: Height over width of the anchors.
        rpn_convs: 3x3 convolutions of the proposal head.
        rpn_batch_size_per_image: Anchors per image in the proposal loss.
        rpn_proposals_train: Proposals before and after NMS in training.
        rpn_proposals_test: Proposals before and after NMS in evaluation.
        box_batch_size_per_image: Proposals per image in the box loss.
        box_resolution: Side of the maps pooled for the box head.
        representation_size: Channels of the two hidden layers of the box head.
    """

    min_reduction: int = 4
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    rpn_convs: int = 1
    rpn_batch_size_per_image: int = 256
    rpn_proposals_train: int = 2000
    rpn_proposals_test: int = 1000
    box_batch_size_per_image: int = 512
    box_resolution: int = 7
    representation_size: int = 1024

    def build_parts(self, features: PyramidFeatures, num_classes: int) -> dict[str, Any]:
        """Arguments of torchvision's detectors: proposals, pooling and box head.

        Raises:
            ValueError: If an argument is out of range.
        """
        if self.rpn_convs < 1:
            raise ValueError(f"rpn_convs={self.rpn_convs}: expected at least 1.")
        defaults = [[8 * reduction * self.anchor_scale] for reduction in features.reductions]
        sizes = level_sizes(self.anchor_sizes, defaults, features.reductions)
        anchors = AnchorGenerator(sizes, (tuple(self.aspect_ratios),) * len(sizes))
        channels = features.out_channels
        return {
            "rpn_anchor_generator": anchors,
            "rpn_head": _ProposalHead(channels, anchors.num_anchors_per_location()[0], self.rpn_convs),
            "rpn_batch_size_per_image": self.rpn_batch_size_per_image,
            "rpn_pre_nms_top_n_train": self.rpn_proposals_train,
            "rpn_post_nms_top_n_train": self.rpn_proposals_train,
            "rpn_pre_nms_top_n_test": self.rpn_proposals_test,
            "rpn_post_nms_top_n_test": self.rpn_proposals_test,
            "box_roi_pool": roi_align(features, self.box_resolution, self.anchor_scale),
            "box_head": _BoxHead(channels * self.box_resolution**2, self.representation_size),
            "box_predictor": _BoxPredictor(self.representation_size, num_classes + 1),
            "box_batch_size_per_image": self.box_batch_size_per_image,
        }


def roi_align(features: PyramidFeatures, resolution: int, scale: float) -> MultiScaleRoIAlign:
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
