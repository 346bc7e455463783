"""Trade stride for dilation, for networks whose constructors do not (ShuffleNetV2, MobileNetV3, MobileNetV4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def dilate_stages(
    stages: Iterable[tuple[str, nn.Module]], stride: int, output_stride: int, levels: Iterable[dict[str, Any]]
) -> None:
    """Limit the stride of a chain of stages, in place.

    A unit that would exceed the limit keeps its resolution, and everything after it is dilated. With the same weights
    the result has the same values at the positions that both networks have.

    Args:
        stages: Name and units (blocks) of each stage, in order.
        stride: Reduction of the first stage's input.
        output_stride: Limit of the reduction.
        levels: Entries of ``feature_info``; the ``reduction`` of those whose ``module`` is one of the stages is
            corrected.
    """
    dilation = 1
    reductions = {}
    for name, stage in stages:
        for unit in stage.children():
            spatial = [
                module for module in unit.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
            ]
            step = max((conv.stride[0] for conv in spatial), default=1)
            keep = stride * step > output_stride
            # what comes up to the strided convolution, itself included, still sees inputs of the old spacing
            inherited, reached = dilation, step == 1
            if keep:
                dilation *= step
            else:
                stride *= step
            for conv in spatial:
                strided = conv.stride[0] > 1
                _dilate(conv, dilation if reached and not strided else inherited, 1 if keep else conv.stride[0])
                reached = reached or strided
        reductions[name] = stride
    for level in levels:
        level["reduction"] = reductions.get(level["module"], level["reduction"])


def _dilate(conv: nn.Conv2d, dilation: int, stride: int) -> None:
    if conv.padding != (0, 0):  # timm's Conv2dSame pads by itself
        conv.padding = tuple(dilation * (kernel - 1) // 2 for kernel in conv.kernel_size)
    conv.dilation, conv.stride = (dilation, dilation), (stride, stride)
