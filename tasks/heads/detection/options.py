"""What the heads on a feature pyramid take: all of them, and those with one stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dyvision.tasks.heads.detection.features import PyramidFeatures


@dataclass(frozen=True, kw_only=True)
class PyramidOptions:
    """Of every head on a feature pyramid.

    Args:
        fpn_channels: Channels of the pyramid, and of a head that runs on all its levels.
        min_reduction: Finest pyramid level.
        extra_levels: Add coarser levels to those of the backbone; not needed for images below about 300 pixels.
        anchor_scale: Factor on the default anchor sizes; below 1 for small images.
        anchor_sizes: Anchor sizes in pixels instead, per level a number or several.
    """

    fpn_channels: int = 256
    min_reduction: int = 8
    extra_levels: bool = True
    anchor_scale: float = 1.0
    anchor_sizes: Sequence[float | Sequence[float]] | None = None

    def build_features(self, backbone: nn.Module, extra: str) -> PyramidFeatures:
        """The backbone with its pyramid.

        Args:
            backbone: Network with a list of maps and ``feature_info``.
            extra: How the extra levels are computed; see :class:`PyramidFeatures`.
        """
        return PyramidFeatures(backbone, self.fpn_channels, self.min_reduction, extra if self.extra_levels else None)


@dataclass(frozen=True, kw_only=True)
class DenseOptions(PyramidOptions):
    """Of heads with one stage, whose predictions are dense: those of every head on a pyramid, and these.

    The finest level of the papers is 8; the two extra levels are P6 and P7.

    Args:
        num_convs: 3x3 convolutions of each branch.
        prior_probability: Score of every class before training.
        topk_candidates: Detections per level that enter NMS.
    """

    num_convs: int = 4
    prior_probability: float = 0.01
    topk_candidates: int = 1000
