"""The unfolded input: what each output position of a convolution sees, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.geometry import Geometry


def columns_of(input: Tensor, kernel: Sequence[int], geometry: Geometry) -> Tensor:
    """What each output position sees, ``[B * groups, C_in/groups * kH * kW, H'W']``."""
    batch = input.shape[0]
    height, width = geometry.output_size(input.shape[-2:], kernel)
    if tuple(kernel) == (1, 1):
        input = pad_zeros(input, geometry)
        if geometry.stride != (1, 1):
            input = input[:, :, :: geometry.stride[0], :: geometry.stride[1]]
        columns = input
    else:
        # faster than F.unfold, which goes through the batch sample by sample
        padded = pad_zeros(input, geometry)
        columns = torch.stack([view for _, view in shifts(padded, (height, width), kernel, geometry)], 2)
    return columns.reshape(batch * geometry.groups, -1, height * width)


def fold_columns(columns: Tensor, shape: Sequence[int], kernel: Sequence[int], geometry: Geometry) -> Tensor:
    """The transpose of :func:`columns_of`: sum what every output position sends to an input of this shape."""
    batch, channels, height, width = shape
    size = geometry.output_size((height, width), kernel)
    maps = columns.reshape(batch, channels, kernel[0] * kernel[1], *size)
    if tuple(kernel) == (1, 1) and geometry.stride == (1, 1) and geometry.padding == (0, 0):
        return maps[:, :, 0]
    vertical, horizontal = geometry.padding
    padded = maps.new_zeros(batch, channels, height + 2 * vertical, width + 2 * horizontal)
    for index, view in shifts(padded, size, kernel, geometry):
        view += maps[:, :, index]
    return padded[:, :, vertical : vertical + height, horizontal : horizontal + width]


def pad_zeros(input: Tensor, geometry: Geometry) -> Tensor:
    """The input with the zeros around it that the geometry asks for."""
    vertical, horizontal = geometry.padding
    return F.pad(input, (horizontal, horizontal, vertical, vertical)) if vertical or horizontal else input


def shifts(
    padded: Tensor, size: Sequence[int], kernel: Sequence[int], geometry: Geometry
) -> Iterator[tuple[int, Tensor]]:
    """Per tap of the kernel, what it sees of the padded input: a view ``[B, C_in, H', W']``."""
    (height, width), (down, right), (dilation, across) = size, geometry.stride, geometry.dilation
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            top, left = row * dilation, column * across
            rows = slice(top, top + (height - 1) * down + 1, down)
            yield row * kernel[1] + column, padded[:, :, rows, left : left + (width - 1) * right + 1 : right]
