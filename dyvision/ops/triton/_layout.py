"""Memory formats and sizes of what the kernels write."""

from __future__ import annotations

import torch
from torch import Tensor

from dyvision.ops.geometry import Geometry

Sizes = list[int]


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Name the format of a map ``[B, C, H, W]`` by its strides, so that a slice counts as what it was cut from."""
    channels_last = tensor.shape[1] > 1 and tensor.stride(1) == 1 and tensor.stride(3) >= tensor.shape[1]
    return torch.channels_last if channels_last else torch.contiguous_format


def empty_like(tensor: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Allocate a map of another size with the type, device and memory format of ``tensor``."""
    size = (tensor.shape[0], channels, height, width)
    return torch.empty(size, dtype=tensor.dtype, device=tensor.device, memory_format=memory_format(tensor))


def output_size(input: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, int]:
    """Height and width of a convolution's output."""
    height, width = (
        (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
        for size, taps, stride, pad, dilation in zip(
            input.shape[-2:], weight.shape[-2:], geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    )
    return height, width


def sizes_of(geometry: Geometry) -> tuple[Sizes, Sizes, Sizes, int]:
    """Turn a geometry into arguments of an operator, which takes lists and numbers only."""
    return list(geometry.stride), list(geometry.padding), list(geometry.dilation), geometry.groups


def geometry_of(stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Geometry:
    """Undo :func:`sizes_of`."""
    return Geometry((stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), groups)


def plane(tensor: Tensor) -> tuple[int, int, int]:
    """Strides of rows and columns, and the width to divide a flat position by.

    Returns:
        If one stride serves both axes, ``(0, stride, 0)``: width 0 says that no division is needed, which leaves the
        kernel's reads visibly contiguous. Otherwise ``(row stride, column stride, width)``.
    """
    width, row, column = tensor.shape[3], tensor.stride(2), tensor.stride(3)
    if width == 1:
        return 0, row, 0
    return (0, column, 0) if tensor.shape[2] == 1 or row == column * width else (row, column, width)


def constants(weight: Tensor, geometry: Geometry) -> dict[str, int]:
    """The geometry and the kernel's size under the names the kernels give them."""
    names = ("KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW")
    values = (*weight.shape[-2:], *geometry.stride, *geometry.padding, *geometry.dilation)
    return dict(zip(names, values, strict=True))
