"""Convolution with one kernel per sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops._checks import check_shape, check_tensors
from dyvision.ops._choice import choose_dynamic
from dyvision.ops._geometry import Geometry, Padding, Size, resolve


def dynamic_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve each sample with its own kernel: ``output[b] = conv2d(input[b], weight[b], bias[b])``.

    Args:
        input: ``[B, C_in, H, W]``.
        weight: ``[B, C_out, C_in/groups, kH, kW]``.
        bias: ``[B, C_out]`` or None.
        stride: Int or pair.
        padding: Int, pair, ``"valid"``, or ``"same"`` (TensorFlow's rule, any stride).
        dilation: Int or pair.
        groups: Number of groups.

    Returns:
        ``[B, C_out, H', W']``.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If shapes, groups, devices or the geometry do not fit, or the batch is empty.

    Example:
        >>> x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 3, 3, 3)
        >>> dynamic_conv2d(x, w, padding=1).shape
        torch.Size([2, 5, 8, 8])
    """
    check_tensors(input, weight, "weight", groups, {"bias": bias})
    if weight.shape[0] != input.shape[0]:
        raise ValueError(
            f"weight must hold one kernel per sample; input {tuple(input.shape)} has {input.shape[0]} samples, "
            f"weight {tuple(weight.shape)} has {weight.shape[0]}"
        )
    check_shape("bias", bias, ((input.shape[0], weight.shape[1]),), "[B, C_out]")
    input, geometry = resolve(input, weight.shape[-2:], stride, padding, dilation, groups)
    return convolve(input, weight, bias, geometry)


def convolve(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Compute :func:`dynamic_conv2d` for checked arguments by the formulation chosen for them."""
    name = choose_dynamic(weight, geometry)
    if name == "matmul":
        output = _matmul(input, weight, geometry)
    elif name == "loop":
        output = _loop(input, weight, geometry)
    else:
        output = _grouped(input, weight, geometry)
    return output if bias is None else output + bias.to(output.dtype)[:, :, None, None]


def _grouped(input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Fold the batch into groups: one library convolution with B times as many."""
    batch, out_channels = weight.shape[:2]
    folded = F.conv2d(
        input.reshape(1, -1, *input.shape[-2:]),
        weight.reshape(batch * out_channels, *weight.shape[2:]),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        batch * geometry.groups,
    )
    return folded.view(batch, out_channels, *folded.shape[-2:])


def _matmul(input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """A 1x1 convolution is a matrix product per sample: ``[C_out, C_in] x [C_in, H'W']``."""
    vertical, horizontal = geometry.padding
    if vertical or horizontal:
        input = F.pad(input, (horizontal, horizontal, vertical, vertical))
    input = input[:, :, :: geometry.stride[0], :: geometry.stride[1]]
    batch, channels, height, width = input.shape
    output = torch.bmm(weight.flatten(2).view(batch, -1, channels), input.reshape(batch, channels, height * width))
    return output.view(batch, -1, height, width)


def _loop(input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """One library convolution per sample."""
    outputs = [
        F.conv2d(sample[None], kernel, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        for sample, kernel in zip(input, weight, strict=True)
    ]
    return torch.cat(outputs)
