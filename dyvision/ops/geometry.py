"""Stride, padding, dilation and groups, checked once; padding that depends on the input size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dyvision.ops.modes import is_exporting, is_transformed

Size = int | Sequence[int]
Padding = str | int | Sequence[int]
#: zeros left, right, above, below, as ``F.pad`` takes them
Edges = tuple[int, int, int, int]


class Geometry(NamedTuple):
    """What a convolution needs beside its tensors; each pair is (vertical, horizontal)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def is_pointwise(self) -> bool:
        """Whether a 1x1 kernel meets every pixel, and nothing else, in one group."""
        return self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Height and width of the output for those of the input and of the kernel."""
        height, width = (
            # as the length of a slice: what is cut out by one has this size for an exporter, too
            (length + 2 * padding - dilation * (side - 1) + stride - 1) // stride
            for length, side, stride, padding, dilation in zip(
                size, kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return height, width


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x [B, C, H, W]`` is in channels-last memory, and not in both formats, as a map of one pixel is."""
    # what torch.vmap hands over cannot answer the last question
    return not x.is_contiguous() and not is_transformed() and x.is_contiguous(memory_format=torch.channels_last)


def pair(name: str, value: Size, smallest: int) -> tuple[int, int]:
    """Turn an int or a pair into a pair.

    Raises:
        ValueError: If it is neither, or smaller than ``smallest``.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or any(not isinstance(v, int) or isinstance(v, bool) or v < smallest for v in values):
        raise ValueError(f"{name} must be an int >= {smallest} or a pair of them, got {value!r}")
    return values[0], values[1]


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after one axis under TensorFlow's rule: output ``ceil(size / stride)``, the odd zero behind."""
    reach = dilation * (kernel - 1) + 1
    # without a maximum where none is needed: an exporter reasons about free sizes, one layer behind the other
    total = reach - 1 - (size - 1) % stride
    total = total if reach >= stride else max(total, 0)
    return total // 2, total - total // 2


def pads(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Padding, dilation: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros (top, bottom), (left, right) for a map of the given height and width.

    Raises:
        ValueError: If ``padding`` is a string other than ``"same"`` and ``"valid"``, or not a non-negative int or pair.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding != "same":
            raise ValueError(f"padding must be 'same', 'valid', an int or a pair, got {padding!r}")
        vertical, horizontal = (same_padding(*axis) for axis in zip(size, kernel, stride, dilation, strict=True))
        return vertical, horizontal
    vertical_pad, horizontal_pad = pair("padding", padding, 0)
    return (vertical_pad, vertical_pad), (horizontal_pad, horizontal_pad)


def resolve(
    shape: Sequence[int], kernel: Sequence[int], stride: Size, padding: Padding, dilation: Size, groups: int
) -> tuple[Edges | None, Geometry]:
    """Check the geometry, and split the padding into what a convolution can do and what has to come before it.

    Args:
        shape: Of the input, ``[B, C_in, H, W]``.
        kernel: Height and width of the kernel.
        stride: Int or pair.
        padding: Int, pair, ``"valid"`` or ``"same"``.
        dilation: Int or pair.
        groups: Number of groups.

    Returns:
        Zeros to add to the input first, None unless the padding is asymmetric, and the geometry that remains.

    Raises:
        ValueError: If an argument is out of range, or the kernel is larger than the padded input.
    """
    strides, dilations = pair("stride", stride, 1), pair("dilation", dilation, 1)
    (top, bottom), (left, right) = pads(shape[-2:], kernel, strides, padding, dilations)
    for axis, size, zeros in (("height", shape[-2], top + bottom), ("width", shape[-1], left + right)):
        index = 0 if axis == "height" else 1
        reach = dilations[index] * (kernel[index] - 1) + 1
        if size + zeros < reach:
            raise ValueError(
                f"input of shape {tuple(shape)}: padded {axis} {size + zeros} is less than the kernel's {reach}"
            )
    # at other sizes, "same" zeros that are even here may be odd: an exporter must not ask
    if (padding == "same" and is_exporting()) or top != bottom or left != right:
        return (left, right, top, bottom), Geometry(strides, (0, 0), dilations, groups)
    return None, Geometry(strides, (top, left), dilations, groups)
