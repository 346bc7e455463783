"""A backbone: a plain network of four stages, with what timm's networks offer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dyvision import register_backbone


class FourStages(nn.Module):
    """Stages of two convolutions each; the first of a stage halves the map."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.feature_info = []
        for number, width in enumerate(widths):
            before = widths[number - 1] if number else in_chans
            layers: list[nn.Module] = []
            for channels, stride in ((before, 2), (width, 1)):
                convolution = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            self.stages.append(nn.Sequential(*layers))
            self.feature_info.append({"num_chs": width, "reduction": 2 ** (number + 1), "module": f"stages.{number}"})
        self.fc = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def forward_intermediates(self, x: Tensor, indices: Any = None, **options: Any) -> list[Tensor]:
        """The maps of some stages."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps if indices is None else [maps[index] for index in indices]

    def prune_intermediate_layers(self, indices: Any, **options: Any) -> None:
        """Leave out what lies behind the last of these stages."""
        self.stages = self.stages[: max(indices) + 1]
        self.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images ``[B, in_chans, H, W]``."""
        for stage in self.stages:
            x = stage(x)
        return self.fc(torch.flatten(x.mean((2, 3)), 1))


@register_backbone("four_stages")
def four_stages(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Without published weights; ``--model.pretrained FILE`` loads a file of your own."""
    if pretrained:
        raise RuntimeError("none are published")
    return FourStages(**arguments)
