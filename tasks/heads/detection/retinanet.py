"""RetinaNet: a one-stage detector on a feature pyramid. Lin et al., https://arxiv.org/abs/1708.02002.

Built from torchvision's classes; what differs: any backbone, anchors from the reductions of its maps, heads of any
width and depth, float32 outputs under autocast, and no unused score for the background (the scores are sigmoids).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from dyvision.signatures import takes
from dyvision.tasks.heads.detection.anchors import level_sizes
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.dense import as_weights, check_convs, conv_branch, group_norm, in_float32, set_prior
from dyvision.tasks.heads.detection.options import DenseOptions
from dyvision.tasks.heads.detection.transform import DetectionTransform

_OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))


@takes(DenseOptions)
def build_retinanet(
    backbone: nn.Module,
    num_classes: int,
    config: DetectorConfig,
    *,
    norm: str | None = None,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    fg_iou_threshold: float = 0.5,
    bg_iou_threshold: float = 0.4,
    **shared: Any,
) -> RetinaNet:
    """Build RetinaNet.

    Its default anchor sizes are 4, 5.04 and 6.35 times the reduction of a level.

    Args:
        backbone: Network with a list of maps and ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings all detectors share.
        norm: ``"group"`` for GroupNorm behind the convolutions of the branches, None for the paper's.
        aspect_ratios: Height over width of the anchors.
        fg_iou_threshold: Anchors with at least this IoU are positive.
        bg_iou_threshold: Anchors below this IoU are negative; between the two they are ignored.
        **shared: Arguments of :class:`DenseOptions`.

    Raises:
        ValueError: If an argument is out of range or the backbone has no map that is coarse enough.
    """
    options = DenseOptions(**shared)
    features = options.build_features(backbone, "c5")
    scale = options.anchor_scale
    # whole pixels, as in torchvision
    defaults = [[int(4 * step * octave * scale) for octave in _OCTAVES] for step in features.reductions]
    sizes = level_sizes(options.anchor_sizes, defaults, features.reductions)
    anchors = AnchorGenerator(sizes, (tuple(aspect_ratios),) * len(sizes))
    model = RetinaNet(
        features,
        num_classes,
        anchor_generator=anchors,
        head=_RetinaNetHead(anchors.num_anchors_per_location()[0], num_classes, norm, options),
        fg_iou_thresh=fg_iou_threshold,
        bg_iou_thresh=bg_iou_threshold,
        topk_candidates=options.topk_candidates,
        **config.post_processing(),
    )
    model.transform = DetectionTransform(config, features.size_divisible)
    return model


class _RetinaNetHead(RetinaNetHead):
    """Head with any number of convolutions; float32 outputs."""

    def __init__(self, num_anchors: int, num_classes: int, norm: str | None, options: DenseOptions) -> None:
        if norm not in (None, "group"):
            raise ValueError(f"norm={norm!r}: expected 'group' or null.")
        check_convs(options.num_convs)
        super().__init__(options.fpn_channels, num_anchors, num_classes)
        for branch in (self.classification_head, self.regression_head):
            branch.conv = conv_branch(options.fpn_channels, options.num_convs, group_norm if norm else None)
        set_prior(self.classification_head.cls_logits, options.prior_probability)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Compute ``cls_logits`` ``[B, anchors, classes]`` and ``bbox_regression`` ``[B, anchors, 4]``."""
        return in_float32(super().forward(as_weights(x, self)))
