"""Backbones as torchvision's detectors want them: a feature pyramid, or SSD's chain of ever coarser maps.

Both ask nothing but ``feature_info`` of the backbone, so any network fits. Their maps are float32 also under autocast:
anchors, box decoding, RoIAlign and NMS take their dtype from the maps, and in bfloat16 a coordinate above 256 is off by
pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from dyvision.tasks.heads.norm import GuardedBatchNorm2d


class PyramidFeatures(nn.Module):
    """Backbone with a feature pyramid (FPN, https://arxiv.org/abs/1612.03144).

    Args:
        backbone: Network that returns a list of maps and has timm's ``feature_info``.
        channels: Channels of every pyramid level.
        min_reduction: Maps with a smaller reduction are left out.
        extra: Coarser levels on top: two computed from the backbone's last map (``"c5"``, RetinaNet) or from the
            pyramid's (``"p5"``, FCOS), one subsampled (``"pool"``, R-CNN), or None.

    Attributes:
        reductions: Reduction of each level, finest first.
        names: Names of the levels that come from backbone maps.
        out_channels: Channels of every level.

    Raises:
        ValueError: If no map is coarse enough.
    """

    def __init__(self, backbone: nn.Module, channels: int, min_reduction: int, extra: str | None) -> None:
        super().__init__()
        self.body = backbone
        self.out_channels = channels
        self._indices, in_channels, reductions = select_maps(backbone, min_reduction)
        self.names = [str(number) for number in range(len(self._indices))]
        block: ExtraFPNBlock | None = None
        steps = 0
        if extra in ("c5", "p5"):
            # torchvision takes the pyramid's last map if the channels are equal
            block, steps = _LastLevels(channels if extra == "p5" else in_channels[-1], channels), 2
        elif extra == "pool":
            block, steps = LastLevelMaxPool(), 1
        self.size_divisible = max(reductions)
        self.reductions = reductions + [reductions[-1] * 2**step for step in range(1, steps + 1)]
        self.fpn = FeaturePyramidNetwork(in_channels, channels, extra_blocks=block)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Compute the pyramid.

        Args:
            x: Images ``[B, 3, H, W]``.

        Returns:
            Maps ``[B, channels, H / r, W / r]`` in float32, finest first.
        """
        maps = self.body(x)
        levels = OrderedDict((name, maps[index]) for name, index in zip(self.names, self._indices, strict=True))
        return OrderedDict((name, level.float()) for name, level in self.fpn(levels).items())


class _LastLevels(LastLevelP6P7):
    """P6 and P7 in float32 also under autocast.

    On a CPU, the bfloat16 weight gradient of a 3x3 convolution with stride 2 reads past a map of width 1 (oneDNN, seen
    with PyTorch 2.15) and is NaN now and then; P6 is that narrow for images of up to 64 pixels.
    """

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        with torch.autocast(p[-1].device.type, enabled=False):
            dtype = self.p6.weight.dtype
            return super().forward([level.to(dtype) for level in p], [level.to(dtype) for level in c], names)


class SSDFeatures(nn.Module):
    """Backbone followed by SSDLite's extra blocks (SSD: https://arxiv.org/abs/1512.02325, SSDLite: 1801.04381).

    Args:
        backbone: Network that returns a list of maps and has timm's ``feature_info``.
        min_reduction: Maps with a smaller reduction are left out.
        num_levels: Number of maps, with the extra ones; at least those of the backbone.
        channels: Channels of the extra maps, first to last; the last one repeats.

    Attributes:
        out_channels: Channels of each map, finest first.

    Raises:
        ValueError: If no map is coarse enough.
    """

    def __init__(self, backbone: nn.Module, min_reduction: int, num_levels: int, channels: list[int]) -> None:
        super().__init__()
        self.body = backbone
        self._indices, self.out_channels, reductions = select_maps(backbone, min_reduction)
        self.size_divisible = max(reductions)
        self.extra = nn.ModuleList()
        for number in range(num_levels - len(reductions)):
            out_channels = channels[min(number, len(channels) - 1)]
            self.extra.append(_extra_block(self.out_channels[-1], out_channels))
            self.out_channels.append(out_channels)
        for module in self.extra.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Compute the maps.

        Args:
            x: Images ``[B, 3, H, W]``.

        Returns:
            Maps in float32, finest first.
        """
        maps = self.body(x)
        selected = [maps[index] for index in self._indices]
        for block in self.extra:
            selected.append(block(selected[-1]))
        return OrderedDict((str(number), level.float()) for number, level in enumerate(selected))


# torchvision's values for SSDLite; guarded, because the last maps are 1 x 1 and one image of them has no variance
SSD_NORM = partial(GuardedBatchNorm2d, eps=0.001, momentum=0.03)


def select_maps(backbone: nn.Module, min_reduction: int) -> tuple[list[int], list[int], list[int]]:
    """Find the maps of a backbone that a detector uses.

    Args:
        backbone: Network with timm's ``feature_info``.
        min_reduction: Smallest reduction of interest.

    Returns:
        Indices into the backbone's outputs, their channels, their reductions.

    Raises:
        ValueError: If no map is coarse enough.
    """
    info: Any = backbone.feature_info
    channels, reductions = list(info.channels()), list(info.reduction())
    indices = [index for index, reduction in enumerate(reductions) if reduction >= min_reduction]
    if not indices:
        raise ValueError(
            f"the backbone has maps of reduction {reductions}, the head needs at least one of {min_reduction} or more; "
            "lower the head's min_reduction or use a larger output_stride."
        )
    return indices, [channels[index] for index in indices], [reductions[index] for index in indices]


def _extra_block(in_channels: int, out_channels: int) -> nn.Sequential:
    middle = max(1, out_channels // 2)
    layer = partial(Conv2dNormActivation, norm_layer=SSD_NORM, activation_layer=nn.ReLU6)
    return nn.Sequential(
        layer(in_channels, middle, kernel_size=1),
        layer(middle, middle, kernel_size=3, stride=2, groups=middle),
        layer(middle, out_channels, kernel_size=1),
    )
