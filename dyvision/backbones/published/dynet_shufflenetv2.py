"""Dy-shuffle: ShuffleNetV2 whose right branch is dynamic and a quarter wide (DyNet, arXiv 2004.10694, figure 4b).

Channels are split 3:1. The right quarter passes 1x1, 3x3, 1x1, all dynamic; two inputs per group give the 3x3 the
multiply-adds of ShuffleNetV2's depthwise one, which is twice as wide. One linear layer predicts the coefficients from
the input of the right branch.

Open in the paper, chosen by its numbers (88 without, 92 with branch and mixing for width 1.0, 171 without for 1.5, in
units of 2**20, see ``tests/backbones/dynet_costs.py``):

* Stages have ShuffleNetV2's widths rounded down to a multiple of 8, so that a quarter is even: 112, 232 and 464 (116,
  232, 464), which gives 88.0 and 92.0. Width 1.5 needs no rounding; it gives 169.1.
* Where the resolution is halved, the unit is ShuffleNetV2's (both branches see all channels and give half of the output
  each, the 3x3 is depthwise); its right branch is dynamic, its left one static.
* The shuffle takes one channel of each quarter in turn, so that the next right branch sees all four quarters alike.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dyvision.backbones.published.dynet_common import (
    Dilator,
    DyNetBlock,
    DyNetNetwork,
    Level,
    conv_norm_act,
    convolve,
    register_pair,
)

STEM, HEAD = 24, 1024
#: output channels of ShuffleNetV2's stages
WIDTHS = {"100": (116, 232, 464), "150": (176, 352, 704)}
REPEATS = (4, 8, 4)
#: one part in so many goes right
PARTS = 4
#: inputs per group of the right branch's 3x3 convolution
GROUP_WIDTH = 2


class DyNetShuffleBlock(DyNetBlock):
    """Unit of Dy-shuffle.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of 8.
        num_kernels: g_t; None for the fixed twin.
        split: Whether three quarters of the input pass unchanged; otherwise both branches see all of it.
        stride: Of the 3x3 convolutions.
        dilation: Of the 3x3 convolutions.

    Shape:
        ``[B, in_channels, H, W]`` to ``[B, out_channels, H', W']``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_kernels: int | None,
        split: bool = True,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__(num_kernels)
        self.split = split
        inputs = in_channels // PARTS if split else in_channels
        width = out_channels // PARTS if split else out_channels // 2
        groups = width // GROUP_WIDTH if split else width
        self.left_channels = in_channels - inputs
        self.conv1 = self.make_conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = self.make_conv(width, width, 3, stride=stride, dilation=dilation, groups=groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = self.make_conv(width, width, 1)
        self.bn3 = nn.BatchNorm2d(width)
        if not split:
            left = out_channels - width
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, in_channels, 3, stride, dilation, dilation, groups=in_channels, bias=False),
                nn.BatchNorm2d(in_channels),
                *conv_norm_act(in_channels, left, 1),
            )
        self.make_branch(inputs, [self.conv1, self.conv2, self.conv3])

    def forward(self, x: Tensor) -> Tensor:
        """Run both branches, join and shuffle them."""
        left, right = (x[:, : self.left_channels], x[:, self.left_channels :]) if self.split else (self.shortcut(x), x)
        eta = self.coefficients(right)
        right = torch.relu(self.bn1(convolve(self.conv1, right, eta, 0)))
        right = self.bn2(convolve(self.conv2, right, eta, 1))
        right = torch.relu(self.bn3(convolve(self.conv3, right, eta, 2)))
        return torch.cat((left, right), 1).unflatten(1, (PARTS, -1)).transpose(1, 2).flatten(1, 2)


class DyNetShuffleNetV2(DyNetNetwork):
    """Dy-shuffle, or Fix-shuffle.

    Args:
        width: ``"100"`` or ``"150"``.
    """

    residual: ClassVar[bool] = False

    def __init__(self, width: str = "100", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = conv_norm_act(self.in_chans, STEM, 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        levels = [Level(("stem",), STEM, 2), Level(("maxpool",), STEM, 4)]
        dilator = Dilator(4, self.output_stride)
        channels = STEM
        for number, (nominal, repeats) in enumerate(zip(WIDTHS[width], REPEATS, strict=True), 2):
            outputs = nominal // (PARTS * GROUP_WIDTH) * (PARTS * GROUP_WIDTH)
            blocks = []
            for index in range(repeats):
                stride, dilation, _ = dilator.step(2 if index == 0 else 1)
                blocks.append(DyNetShuffleBlock(channels, outputs, self.num_kernels, index > 0, stride, dilation))
                channels = outputs
            self.add_module(f"stage{number}", nn.Sequential(*blocks))
            levels.append(Level((f"stage{number}",), channels, dilator.reduction))
        head = conv_norm_act(channels, HEAD, 1)
        self.finish(levels, head, nn.Identity(), HEAD)


register_pair("shufflenetv2", partial(DyNetShuffleNetV2, width="100"))
register_pair("shufflenetv2_150", partial(DyNetShuffleNetV2, width="150"))
