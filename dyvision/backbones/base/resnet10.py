"""ResNet-10: ResNet-18 with one block per stage, a row of DyConv's table (Chen et al. 2020, arXiv 1912.03458)."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from dyvision.backbones.registry import register_backbone


@register_backbone("resnet10")
def resnet10(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Basic blocks (1, 1, 1, 1), the stem and the widths of ResNet-18."""
    if pretrained:
        raise RuntimeError("none are published")
    block: Any = BasicBlock  # timm annotates an instance
    model: nn.Module = ResNet(block, (1, 1, 1, 1), **arguments)
    # which weights of a file are adapted to other input channels and classes
    model.pretrained_cfg = {  # type: ignore[assignment]
        "architecture": "resnet10",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "first_conv": "conv1",
        "classifier": "fc",
    }
    return model
