"""FCOS: a one-stage detector on a feature pyramid without anchors. Tian et al., https://arxiv.org/abs/1904.01355.

Built from torchvision's classes; what differs: any backbone, anchors from the reductions of its maps, heads of any
width and depth, float32 outputs under autocast, and no unused score for the background (the scores are sigmoids).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from dyvision.signatures import takes
from dyvision.tasks.heads.detection.anchors import level_sizes
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.dense import as_weights, check_convs, group_norm, in_float32, set_prior
from dyvision.tasks.heads.detection.features import PyramidFeatures
from dyvision.tasks.heads.detection.options import DenseOptions
from dyvision.tasks.heads.detection.transform import DetectionTransform

FCOSKind = TypeVar("FCOSKind", bound=FCOS)


@dataclass(frozen=True, kw_only=True)
class FCOSOptions(DenseOptions):
    """Of FCOS and what builds on it: those of every dense head, and this one.

    A level has one anchor size, its unit, by default its reduction: it is responsible for objects whose farthest side
    is 4 to 8 units away. GroupNorm stands behind the convolutions of the branches.

    Args:
        center_sampling_radius: Points within this many units of an object's centre are positive.
    """

    center_sampling_radius: float = 1.5


@takes(FCOSOptions)
def build_fcos(backbone: nn.Module, num_classes: int, config: DetectorConfig, **options: Any) -> FCOS:
    """Build FCOS.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        **options: Arguments of :class:`FCOSOptions`.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    chosen = FCOSOptions(**options)
    features = chosen.build_features(backbone, "p5")
    units = level_units("FCOS", features, chosen)
    return assemble_fcos(FCOS, features, SizedFCOSHead(num_classes, chosen), units, config, chosen)


def level_units(detector: str, features: PyramidFeatures, options: FCOSOptions) -> tuple[tuple[float, ...], ...]:
    """The one size per level, in pixels, by which FCOS and what builds on it measure objects.

    Raises:
        ValueError: If ``anchor_sizes`` gives a level more than one.
    """
    units = [[reduction * options.anchor_scale] for reduction in features.reductions]
    sizes = level_sizes(options.anchor_sizes, units, features.reductions)
    if any(len(size) != 1 for size in sizes):
        raise ValueError(f"anchor_sizes={options.anchor_sizes!r}: {detector} has one size per level.")
    return sizes


def assemble_fcos(
    kind: type[FCOSKind],
    features: PyramidFeatures,
    head: SizedFCOSHead,
    units: tuple[tuple[float, ...], ...],
    config: DetectorConfig,
    options: FCOSOptions,
) -> FCOSKind:
    """Put FCOS, or a subclass, together from its parts."""
    model = kind(
        features,
        head.classification_head.num_classes,
        anchor_generator=AnchorGenerator(units, ((1.0,),) * len(units)),
        head=head,
        center_sampling_radius=options.center_sampling_radius,
        topk_candidates=options.topk_candidates,
        **config.post_processing(),
    )
    model.transform = DetectionTransform(config, features.size_divisible)
    return model


class SizedFCOSHead(FCOSHead):
    """Head with any number of channels; float32 outputs."""

    def __init__(self, num_classes: int, options: DenseOptions) -> None:
        channels, num_convs = options.fpn_channels, options.num_convs
        check_convs(num_convs)
        # torchvision's branches need a multiple of 32 channels: build the smallest, then replace them
        super().__init__(32, 1, num_classes, 1)
        self.classification_head = FCOSClassificationHead(channels, 1, num_classes, num_convs, norm_layer=group_norm)
        self.regression_head = FCOSRegressionHead(channels, 1, num_convs, norm_layer=group_norm)
        set_prior(self.classification_head.cls_logits, options.prior_probability)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Compute ``cls_logits``, ``bbox_regression`` and ``bbox_ctrness``, one row per point."""
        return in_float32(super().forward(as_weights(x, self)))
