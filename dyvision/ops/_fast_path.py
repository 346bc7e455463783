"""Straight-line code for inference, put together once per signature: all questions of the general path are answered.

At batch size 1 a layer's products take a tenth of a millisecond, and twenty calls of Python functions as long again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import sum_by_channel

#: ``(input [B, C_in, H, W], weight of any shape with the kernels' numbers, bias [C_out] or [B, C_out])``
Convolve = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def straight_convolution(
    name: str, batch: int, size: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry
) -> Convolve | None:
    """Code for one convolution with given kernels by the formulation ``name``.

    Args:
        name: The formulation.
        batch: Samples.
        size: Height and width of the input.
        kernel_shape: ``(C_out, C_in/groups, kH, kW)``.
        geometry: Stride, padding, dilation, groups.

    Returns:
        The code, or None for a case that is not common enough.
    """
    out_channels = kernel_shape[0]
    if name == "matmul" and geometry.is_pointwise:
        matrices, maps = (batch, out_channels, kernel_shape[1]), (batch, out_channels, *size)

        def multiply(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            output = torch.bmm(weight.reshape(matrices), input.flatten(2))
            return (output if bias is None else output.add_(bias.unsqueeze(-1))).view(maps)

        return multiply
    if name == "grouped" or (name == "loop" and batch == 1):
        (stride, padding, dilation, groups), height_width = geometry, geometry.output_size(size, kernel_shape[2:])
        folded = (batch * out_channels, *kernel_shape[1:])
        maps = (batch, out_channels, *height_width)
        groups = groups * batch

        def fold(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if batch == 1:
                bias = None if bias is None else bias.view(-1)
                return F.conv2d(input, weight.reshape(folded), bias, stride, padding, dilation, groups)
            bias = None if bias is None else bias.expand(batch, -1).reshape(-1)
            input = input.reshape(1, -1, *size)
            return F.conv2d(input, weight.reshape(folded), bias, stride, padding, dilation, groups).view(maps)

        return fold
    return None


def straight_mixture(
    name: str, coefficients: Tensor, size: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry
) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] | None:
    """Code for ``(input, kernels, coefficients, bias [C_out])``; arguments as of :func:`straight_convolution`."""
    convolve = straight_convolution(name, coefficients.shape[0], size, kernel_shape, geometry)
    if convolve is None:
        return None
    if coefficients.ndim == 2:
        return lambda x, kernels, mix, bias: convolve(x, torch.mm(mix, kernels.flatten(1)), bias)
    numbers = math.prod(kernel_shape[1:])
    shape = (-1, kernel_shape[0], numbers)
    return lambda x, kernels, mix, bias: convolve(x, sum_by_channel(mix, kernels.view(shape)), bias)
