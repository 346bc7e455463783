"""Dy-mobile: MobileNetV2 without expansion, its three convolutions dynamic (DyNet, arXiv 2004.10694, figure 4a).

A block of C_out channels is 1x1, 3x3 with ``groups = C_out / 6``, 1x1, all with C_out outputs, rounded up to a multiple
of 6. Six inputs per group give the 3x3 the multiply-adds of MobileNetV2's depthwise one, which is six times wider. One
linear layer predicts the coefficients from the input of the block.

Open in the paper: the stem. With 30 channels (32 down to a multiple of 6) convolutions and classifier have 129.4 M
multiply-adds, 135.3 M with branch and mixing; published are 129 M (ICLR text) and 135 M (arXiv). With 32 channels it is
130.5 and 136.4 M. Activations (ReLU6, none after the last 1x1) and the static 1x1 head of 1280 channels are those of
MobileNetV2.
"""

from __future__ import annotations

import math
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from dyvision.backbones.published.dynet_common import (
    Dilator,
    DyNetBlock,
    DyNetNetwork,
    Level,
    conv_norm_act,
    convolve,
    drop_path_rates,
    register_pair,
)

#: inputs per group of the 3x3 convolution: the expansion it stands for
GROUP_WIDTH = 6
STEM, HEAD = 30, 1280
#: by stage: MobileNetV2's output channels, blocks, stride
STAGES = (((16, 1, 1),), ((24, 2, 2),), ((32, 3, 2),), ((64, 4, 2), (96, 3, 1)), ((160, 3, 2), (320, 1, 1)))


class DyNetInvertedResidual(DyNetBlock):
    """Block of Dy-mobile; residual if input and output have the same shape.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of all three convolutions, a multiple of 6.
        num_kernels: g_t; None for the fixed twin.
        stride: Of the 3x3 convolution.
        dilation: Of the 3x3 convolution.
        residual: Whether the input is added. As argument, since a stride traded for dilation adds no connection.
        drop_path: Stochastic depth.

    Shape:
        ``[B, in_channels, H, W]`` to ``[B, out_channels, H', W']``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_kernels: int | None,
        stride: int = 1,
        dilation: int = 1,
        residual: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(num_kernels)
        self.residual = residual
        self.conv1 = self.make_conv(in_channels, out_channels, 1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        groups = out_channels // GROUP_WIDTH
        self.conv2 = self.make_conv(out_channels, out_channels, 3, stride=stride, dilation=dilation, groups=groups)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv3 = self.make_conv(out_channels, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU6(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.make_branch(in_channels, [self.conv1, self.conv2, self.conv3])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the kernels that the branch mixes for this input."""
        eta = self.coefficients(x)
        y = self.act(self.bn1(convolve(self.conv1, x, eta, 0)))
        y = self.act(self.bn2(convolve(self.conv2, y, eta, 1)))
        y = self.bn3(convolve(self.conv3, y, eta, 2))
        return x + self.drop_path(y) if self.residual else y


class DyNetMobileNetV2(DyNetNetwork):
    """Dy-mobile 1.0, or Fix-mobile."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = conv_norm_act(self.in_chans, STEM, 3, stride=2, act=nn.ReLU6)
        dilator = Dilator(2, self.output_stride)
        rates = iter(drop_path_rates(self.drop_path_rate, sum(count for stage in STAGES for _, count, _ in stage)))
        channels, levels = STEM, []
        for number, stage in enumerate(STAGES, 1):
            blocks = []
            for width, count, first_stride in stage:
                outputs = math.ceil(width / GROUP_WIDTH) * GROUP_WIDTH
                for index in range(count):
                    step = first_stride if index == 0 else 1
                    stride, dilation, _ = dilator.step(step)
                    residual = step == 1 and channels == outputs
                    blocks.append(
                        DyNetInvertedResidual(
                            channels, outputs, self.num_kernels, stride, dilation, residual, drop_path=next(rates)
                        )
                    )
                    channels = outputs
            self.add_module(f"stage{number}", nn.Sequential(*blocks))
            modules = ("stem", "stage1") if number == 1 else (f"stage{number}",)
            levels.append(Level(modules, channels, dilator.reduction))
        head = conv_norm_act(channels, HEAD, 1, act=nn.ReLU6)
        self.finish(levels, head, nn.Identity(), HEAD)


register_pair("mobilenetv2", DyNetMobileNetV2)
