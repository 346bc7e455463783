"""Heads: one for segmentation, and one for detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dyvision.tasks import register_detection_head, register_segmentation_head
from dyvision.tasks.heads.detection import build_fcos


@register_segmentation_head("sum_of_levels")
class SumOfLevels(nn.Module):
    """All levels as wide as each other, enlarged to the finest and added."""

    def __init__(self, in_channels: Sequence[int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits ``[B, num_classes, h, w]``, of the finest level's size."""
        levels = [lateral(one) for lateral, one in zip(self.lateral, features, strict=True)]
        size = levels[0].shape[-2:]
        added = sum(F.interpolate(level, size, mode="bilinear") for level in levels)
        return self.classifier(F.relu(added))


@register_detection_head("small_fcos", background=False)
def small_fcos(backbone: nn.Module, num_classes: int, config: Any, num_convs: int = 1, **options: Any) -> nn.Module:
    """FCOS with fewer convolutions; it has sigmoid scores, so its class 0 is no background."""
    return build_fcos(backbone, num_classes, config, num_convs=num_convs, **options)
