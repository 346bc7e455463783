"""Dy-ResNet18 and Dy-ResNet50: half the channels, dynamic kernels (DyNet, arXiv 2004.10694, figures 4c and 4d).

All convolutions of the residual blocks are dynamic and have half of ResNet's output channels (32, 64, 128, 256, times 4
behind bottlenecks); the stem keeps its 64. Two linear layers, a quarter of the inputs wide, predict the coefficients
from the input of the block.

Open in the paper, chosen by its numbers (550 and 1075 without, 567 and 1119 with branch and mixing, in units of 2**20
like its 1730 for ResNet-18, 1814.1 million):

* The 1x1 convolutions of the shortcuts are dynamic, too: 567.2 and 1120.0. Static ones give 566.9 and 1115.0.
* Bottlenecks have their stride on the 3x3 convolution: 1075.1. On the first 1x1 it is 1020.0.
* A ReLU stands between the two linear layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from dyvision.backbones.published.dynet_common import (
    Coefficients,
    Conv,
    Dilator,
    DyNetBlock,
    DyNetNetwork,
    Level,
    conv_norm_act,
    convolve,
    drop_path_rates,
    register_pair,
)

STEM = 64
#: output channels of the 3x3 convolutions by stage
WIDTHS = (32, 64, 128, 256)
#: inputs of the branch over its hidden channels
REDUCTION = 4


class Projection(nn.Module):
    """1x1 convolution and BatchNorm on a shortcut.

    Args:
        conv: The convolution.
        channels: Its outputs.
    """

    def __init__(self, conv: Conv, channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, coefficients: Coefficients = None) -> Tensor:
        """Project with the last of the block's coefficients."""
        projected: Tensor = self.bn(convolve(self.conv, x, coefficients, -1))
        return projected


class DyNetResidualBlock(DyNetBlock):
    """Residual block of two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1.

    Args:
        in_channels: Channels of the input.
        width: Output channels of the 3x3 convolutions.
        num_kernels: g_t; None for the fixed twin.
        bottleneck: Whether it is a bottleneck; its output has ``4 * width`` channels, otherwise ``width``.
        stride: Of the first 3x3 convolution.
        dilations: Of the first and of the second 3x3 convolution.
        project: Whether the shortcut has a convolution; necessary where the shape changes.
        drop_path: Stochastic depth.

    Shape:
        ``[B, in_channels, H, W]`` to ``[B, width or 4 * width, H', W']``.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        num_kernels: int | None,
        bottleneck: bool = False,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        project: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(num_kernels)
        outputs = 4 * width if bottleneck else width
        spatial = {"stride": stride, "dilation": dilations[0]}
        if bottleneck:
            convs = [
                self.make_conv(in_channels, width, 1),
                self.make_conv(width, width, 3, **spatial),
                self.make_conv(width, outputs, 1),
            ]
        else:
            convs = [
                self.make_conv(in_channels, width, 3, **spatial),
                self.make_conv(width, width, 3, dilation=dilations[1]),
            ]
        self.conv1, self.conv2 = convs[:2]
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv3 = convs[2]
            self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: Projection | None = None
        if project:
            convs.append(self.make_conv(in_channels, outputs, 1, stride=stride))
            self.downsample = Projection(convs[-1], outputs)
        self.act = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.make_branch(in_channels, convs, REDUCTION)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the kernels that the branch mixes for this input."""
        eta = self.coefficients(x)
        y = self.act(self.bn1(convolve(self.conv1, x, eta, 0)))
        y = self.bn2(convolve(self.conv2, y, eta, 1))
        if self.bottleneck:
            y = self.bn3(convolve(self.conv3, self.act(y), eta, 2))
        shortcut = x if self.downsample is None else self.downsample(x, eta)
        return torch.relu(self.drop_path(y) + shortcut)


class DyNetResNet(DyNetNetwork):
    """Dy-ResNet, or its fixed twin.

    Args:
        depths: Blocks per stage.
        bottleneck: Whether the blocks are bottlenecks.
    """

    def __init__(self, depths: tuple[int, int, int, int], bottleneck: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = conv_norm_act(self.in_chans, STEM, 7, stride=2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        levels = [Level(("stem",), STEM, 2)]
        dilator = Dilator(4, self.output_stride)
        rates = iter(drop_path_rates(self.drop_path_rate, sum(depths)))
        channels = STEM
        for number, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True), 1):
            blocks = []
            for index in range(depth):
                step = 2 if index == 0 and number > 1 else 1
                stride, before, after = dilator.step(step)
                outputs = 4 * width if bottleneck else width
                blocks.append(
                    DyNetResidualBlock(
                        channels,
                        width,
                        self.num_kernels,
                        bottleneck,
                        stride,
                        (before, after),
                        project=step != 1 or channels != outputs,
                        drop_path=next(rates),
                    )
                )
                channels = outputs
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            modules = ("maxpool", "layer1") if number == 1 else (f"layer{number}",)
            levels.append(Level(modules, channels, dilator.reduction))
        self.finish(levels, nn.Identity(), nn.Identity(), channels)


register_pair("resnet18", partial(DyNetResNet, depths=(2, 2, 2, 2), bottleneck=False))
register_pair("resnet50", partial(DyNetResNet, depths=(3, 4, 6, 3), bottleneck=True))
