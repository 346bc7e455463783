"""One-stage detectors on a feature pyramid: RetinaNet and FCOS.

RetinaNet: Lin et al., https://arxiv.org/abs/1708.02002. FCOS: Tian et al., https://arxiv.org/abs/1904.01355.
Built from torchvision's classes; what differs: any backbone, anchors from the reductions of its maps, heads of any
width and depth, float32 outputs under autocast, and no unused score for the background (the scores are sigmoids).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import Conv2dNormActivation

from dyvision.tasks.heads.detection.anchors import level_sizes
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.features import PyramidFeatures
from dyvision.tasks.heads.detection.transform import DetectionTransform

_OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_RATIOS = (0.5, 1.0, 2.0)

FCOSKind = TypeVar("FCOSKind", bound=FCOS)


def build_retinanet(
    backbone: nn.Module,
    num_classes: int,
    config: DetectorConfig,
    *,
    fpn_channels: int = 256,
    min_reduction: int = 8,
    extra_levels: bool = True,
    num_convs: int = 4,
    norm: str | None = None,
    anchor_scale: float = 1.0,
    anchor_sizes: Sequence[float | Sequence[float]] | None = None,
    aspect_ratios: Sequence[float] = _RATIOS,
    prior_probability: float = 0.01,
    fg_iou_threshold: float = 0.5,
    bg_iou_threshold: float = 0.4,
    topk_candidates: int = 1000,
) -> RetinaNet:
    """Build RetinaNet.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        fpn_channels: Channels of the pyramid and of the head.
        min_reduction: Finest pyramid level; the paper's is 8.
        extra_levels: Add two coarser levels (P6, P7); not needed for images below about 300 pixels.
        num_convs: 3x3 convolutions of each branch.
        norm: ``"group"`` for GroupNorm behind them, None for the paper's.
        anchor_scale: Factor on the default sizes (4, 5.04 and 6.35 times the reduction); below 1 for small images.
        anchor_sizes: Anchor sizes in pixels instead, per level a number or several.
        aspect_ratios: Height over width of the anchors.
        prior_probability: Score of every class before training.
        fg_iou_threshold: Anchors with at least this IoU are positive.
        bg_iou_threshold: Anchors below this IoU are negative; between the two they are ignored.
        topk_candidates: Detections per level that enter NMS.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    features = PyramidFeatures(backbone, fpn_channels, min_reduction, "c5" if extra_levels else None)
    # whole pixels, as in torchvision
    defaults = [[int(4 * step * octave * anchor_scale) for octave in _OCTAVES] for step in features.reductions]
    sizes = level_sizes(anchor_sizes, defaults, features.reductions)
    anchors = AnchorGenerator(sizes, (tuple(aspect_ratios),) * len(sizes))
    head = _RetinaNetHead(
        fpn_channels, anchors.num_anchors_per_location()[0], num_classes, num_convs, norm, prior_probability
    )
    model = RetinaNet(
        features,
        num_classes,
        anchor_generator=anchors,
        head=head,
        fg_iou_thresh=fg_iou_threshold,
        bg_iou_thresh=bg_iou_threshold,
        topk_candidates=topk_candidates,
        **config.post_processing(),
    )
    model.transform = DetectionTransform(config, features.size_divisible)
    return model


def build_fcos(
    backbone: nn.Module,
    num_classes: int,
    config: DetectorConfig,
    *,
    fpn_channels: int = 256,
    min_reduction: int = 8,
    extra_levels: bool = True,
    num_convs: int = 4,
    anchor_scale: float = 1.0,
    anchor_sizes: Sequence[float] | None = None,
    prior_probability: float = 0.01,
    center_sampling_radius: float = 1.5,
    topk_candidates: int = 1000,
) -> FCOS:
    """Build FCOS.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        fpn_channels: Channels of the pyramid and of the head.
        min_reduction: Finest pyramid level; the paper's is 8.
        extra_levels: Add two coarser levels (P6, P7); not needed for images below about 300 pixels.
        num_convs: 3x3 convolutions (with GroupNorm) of each branch.
        anchor_scale: Factor on the unit of each level, which is its reduction: a level is responsible for objects whose
            farthest side is 4 to 8 units away; below 1 for small images.
        anchor_sizes: The unit of each level in pixels instead.
        prior_probability: Score of every class before training.
        center_sampling_radius: Points within this many units of an object's centre are positive.
        topk_candidates: Detections per level that enter NMS.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    features = PyramidFeatures(backbone, fpn_channels, min_reduction, "p5" if extra_levels else None)
    units = level_units("FCOS", features, anchor_scale, anchor_sizes)
    head = _FCOSHead(fpn_channels, num_classes, num_convs, prior_probability)
    return assemble_fcos(FCOS, features, head, units, config, center_sampling_radius, topk_candidates)


def level_units(
    detector: str, features: PyramidFeatures, anchor_scale: float, anchor_sizes: Sequence[float] | None
) -> tuple[tuple[float, ...], ...]:
    """The one size per level, in pixels, by which FCOS and what builds on it measure objects.

    Raises:
        ValueError: If ``anchor_sizes`` gives a level more than one.
    """
    units = [[reduction * anchor_scale] for reduction in features.reductions]
    sizes = level_sizes(anchor_sizes, units, features.reductions)
    if any(len(size) != 1 for size in sizes):
        raise ValueError(f"anchor_sizes={anchor_sizes!r}: {detector} has one size per level.")
    return sizes


def assemble_fcos(
    kind: type[FCOSKind],
    features: PyramidFeatures,
    head: _FCOSHead,
    units: tuple[tuple[float, ...], ...],
    config: DetectorConfig,
    center_sampling_radius: float,
    topk_candidates: int,
) -> FCOSKind:
    """Put FCOS, or a subclass, together from its parts; see :func:`build_fcos` for the arguments."""
    model = kind(
        features,
        head.classification_head.num_classes,
        anchor_generator=AnchorGenerator(units, ((1.0,),) * len(units)),
        head=head,
        center_sampling_radius=center_sampling_radius,
        topk_candidates=topk_candidates,
        **config.post_processing(),
    )
    model.transform = DetectionTransform(config, features.size_divisible)
    return model


class _RetinaNetHead(RetinaNetHead):
    """Head with any number of convolutions; float32 outputs."""

    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, num_convs: int, norm: str | None, prior: float
    ) -> None:
        if norm not in (None, "group"):
            raise ValueError(f"norm={norm!r}: expected 'group' or null.")
        _check_convs(num_convs)
        super().__init__(channels, num_anchors, num_classes)
        for branch in (self.classification_head, self.regression_head):
            branch.conv = _branch(channels, num_convs, group_norm if norm else None)
        _set_prior(self.classification_head.cls_logits, prior)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Compute ``cls_logits`` ``[B, anchors, classes]`` and ``bbox_regression`` ``[B, anchors, 4]``."""
        return _in_float32(super().forward(_as_weights(x, self)))


class _FCOSHead(FCOSHead):
    """Head with any number of channels; float32 outputs."""

    def __init__(self, channels: int, num_classes: int, num_convs: int, prior: float) -> None:
        _check_convs(num_convs)
        # torchvision's branches need a multiple of 32 channels: build the smallest, then replace them
        super().__init__(32, 1, num_classes, 1)
        self.classification_head = FCOSClassificationHead(channels, 1, num_classes, num_convs, norm_layer=group_norm)
        self.regression_head = FCOSRegressionHead(channels, 1, num_convs, norm_layer=group_norm)
        _set_prior(self.classification_head.cls_logits, prior)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Compute ``cls_logits``, ``bbox_regression`` and ``bbox_ctrness``, one row per point."""
        return _in_float32(super().forward(_as_weights(x, self)))


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with eight channels per group, as torchvision's 32 groups of 256 channels.

    Not 32 groups at any width: a group of one channel would have nothing to normalise on a 1 x 1 map.
    """
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


def _branch(channels: int, num_convs: int, norm: Callable[..., nn.Module] | None) -> nn.Sequential:
    layers = [Conv2dNormActivation(channels, channels, norm_layer=norm) for _ in range(num_convs)]
    for module in nn.Sequential(*layers).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return nn.Sequential(*layers)


def _set_prior(layer: nn.Conv2d, prior: float) -> None:
    if not 0 < prior < 1:
        raise ValueError(f"prior_probability={prior}: expected a number between 0 and 1.")
    nn.init.constant_(cast(Tensor, layer.bias), -math.log((1 - prior) / prior))


def _check_convs(num_convs: int) -> None:
    if num_convs < 0:
        raise ValueError(f"num_convs={num_convs}: expected 0 or more.")


def _as_weights(x: list[Tensor], module: nn.Module) -> list[Tensor]:
    """Cast maps to the weights' dtype: nothing to do in float32 and under autocast, needed for bfloat16 models."""
    dtype = next(module.parameters()).dtype
    return [level.to(dtype) for level in x]


def _in_float32(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: output.to(torch.float32) for name, output in outputs.items()}
