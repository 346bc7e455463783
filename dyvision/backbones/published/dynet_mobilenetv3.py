"""Dy-MobileNetV3-Small and -Large: MobileNetV3 with dynamic kernels (DyNet, arXiv 2004.10694).

The paper keeps MobileNetV3's cost instead of reducing it, so the widths are MobileNetV3's (Howard et al. 2019, arXiv
1905.02244, tables 1 and 2), and so are squeeze-excite, activations and head.

Open in the paper, chosen by its numbers (59 and 228 M multiply-adds with branch and mixing): all convolutions of the
blocks are dynamic, and two linear layers, a quarter of the inputs wide, predict the coefficients from the input of the
block, as in Dy-ResNet. This gives 59.4 and 226.2 M. One linear layer would give 61.0 and 231.8 M, two without
squeeze-excite 59.0 and 224.7 M, and one with static depthwise kernels 59.7 and 227.8 M.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from timm.layers import DropPath, SqueezeExcite, make_divisible
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


class Row(NamedTuple):
    """A row of MobileNetV3's tables: one block."""

    kernel: int
    expanded: int
    outputs: int
    attention: bool
    hard_swish: bool
    stride: int


_SMALL = (
    (Row(3, 16, 16, True, False, 2),),
    (Row(3, 72, 24, False, False, 2), Row(3, 88, 24, False, False, 1)),
    (
        Row(5, 96, 40, True, True, 2),
        Row(5, 240, 40, True, True, 1),
        Row(5, 240, 40, True, True, 1),
        Row(5, 120, 48, True, True, 1),
        Row(5, 144, 48, True, True, 1),
    ),
    (Row(5, 288, 96, True, True, 2), Row(5, 576, 96, True, True, 1), Row(5, 576, 96, True, True, 1)),
)
_LARGE = (
    (Row(3, 16, 16, False, False, 1),),
    (Row(3, 64, 24, False, False, 2), Row(3, 72, 24, False, False, 1)),
    (Row(5, 72, 40, True, False, 2), Row(5, 120, 40, True, False, 1), Row(5, 120, 40, True, False, 1)),
    (
        Row(3, 240, 80, False, True, 2),
        Row(3, 200, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 480, 112, True, True, 1),
        Row(3, 672, 112, True, True, 1),
    ),
    (Row(5, 672, 160, True, True, 2), Row(5, 960, 160, True, True, 1), Row(5, 960, 160, True, True, 1)),
)
STEM = 16
#: inputs of the branch over its hidden channels
REDUCTION = 4


class DyNetExpandedInvertedResidual(DyNetBlock):
    """Block of MobileNetV3: 1x1 to wider, depthwise, squeeze-excite, 1x1 back; without the first where nothing widens.

    Args:
        in_channels: Channels of the input.
        row: The block's row in the table.
        num_kernels: g_t; None for the fixed twin.
        stride: Of the depthwise convolution; 1 where dilation replaces ``row.stride``.
        dilation: Of the depthwise convolution.
        drop_path: Stochastic depth.

    Shape:
        ``[B, in_channels, H, W]`` to ``[B, row.outputs, H', W']``.
    """

    def __init__(
        self,
        in_channels: int,
        row: Row,
        num_kernels: int | None,
        stride: int = 1,
        dilation: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(num_kernels)
        middle = row.expanded
        self.residual = row.stride == 1 and in_channels == row.outputs
        self.expands = middle != in_channels
        if self.expands:
            self.conv_pw = self.make_conv(in_channels, middle, 1)
            self.bn1 = nn.BatchNorm2d(middle)
        self.conv_dw = self.make_conv(middle, middle, row.kernel, stride=stride, dilation=dilation, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.se: nn.Module = nn.Identity()
        if row.attention:
            hidden = make_divisible(middle / 4, 8)
            self.se = SqueezeExcite(middle, rd_channels=hidden, act_layer=nn.ReLU, gate_layer="hard_sigmoid")
        self.conv_pwl = self.make_conv(middle, row.outputs, 1)
        self.bn3 = nn.BatchNorm2d(row.outputs)
        self.act = nn.Hardswish(inplace=True) if row.hard_swish else nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        convs = [self.conv_dw, self.conv_pwl]
        self.make_branch(in_channels, [*convs, self.conv_pw] if self.expands else convs, REDUCTION)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the kernels that the branch mixes for this input."""
        eta = self.coefficients(x)
        y = self.act(self.bn1(convolve(self.conv_pw, x, eta, 2))) if self.expands else x
        y = self.se(self.act(self.bn2(convolve(self.conv_dw, y, eta, 0))))
        y = self.bn3(convolve(self.conv_pwl, y, eta, 1))
        return x + self.drop_path(y) if self.residual else y


class DyNetMobileNetV3(DyNetNetwork):
    """Dy-MobileNetV3, or its fixed twin.

    Args:
        stages: Blocks by stage; each stage but the first of Large halves the resolution.
        last: Channels of the last feature map, behind a static 1x1 convolution.
        features: Channels of the linear layer before the classifier.
    """

    def __init__(self, stages: tuple[tuple[Row, ...], ...], last: int, features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = conv_norm_act(self.in_chans, STEM, 3, stride=2, act=nn.Hardswish)
        # Large's first stage keeps the resolution: the first level lies behind it, as in timm
        levels = [Level(("stem",), STEM, 2)] if stages[0][0].stride == 2 else []
        dilator = Dilator(2, self.output_stride)
        rates = iter(drop_path_rates(self.drop_path_rate, sum(map(len, stages))))
        channels = STEM
        for number, rows in enumerate(stages, 1):
            blocks = []
            for row in rows:
                stride, dilation, _ = dilator.step(row.stride)
                blocks.append(
                    DyNetExpandedInvertedResidual(channels, row, self.num_kernels, stride, dilation, next(rates))
                )
                channels = row.outputs
            self.add_module(f"stage{number}", nn.Sequential(*blocks))
            first = () if levels else ("stem",)
            levels.append(Level((*first, f"stage{number}"), channels, dilator.reduction))
        self.conv_last = conv_norm_act(channels, last, 1, act=nn.Hardswish)
        levels[-1] = Level((*levels[-1].modules, "conv_last"), last, dilator.reduction)
        neck = nn.Sequential(nn.Linear(last, features), nn.Hardswish())
        self.finish(levels, nn.Identity(), neck, features)


register_pair("mobilenetv3_small", partial(DyNetMobileNetV3, stages=_SMALL, last=576, features=1024))
register_pair("mobilenetv3_large", partial(DyNetMobileNetV3, stages=_LARGE, last=960, features=1280))
