"""Depthwise and dense convolution with one kernel per sample."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.triton._layout import Sizes, empty_like, geometry_of, output_size, sizes_of


def depthwise(input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Convolve each channel of each sample with its own kernel, summing in float32.

    Args:
        input: ``[B, C, H, W]``, of any strides.
        weight: ``[B, C, kH, kW]``.
        geometry: Stride, padding and dilation; the groups are not read, each channel is one.

    Returns:
        ``[B, C, H', W']`` in the input's type and memory format.
    """
    return convolve(input, weight, *sizes_of(geometry))


def dense(input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Convolve each sample with its own kernel, summing in float32.

    The weight is rounded to the input's type for the product.

    Args:
        input: ``[B, C_in, H, W]``, of any strides.
        weight: ``[B, C_out, C_in/groups, kH, kW]``.
        geometry: Stride, padding, dilation and groups.

    Returns:
        ``[B, C_out, H', W']`` in the input's type and memory format.
    """
    return convolve(input, weight, *sizes_of(geometry))


def _kernels(weight: Tensor) -> ModuleType:
    """The module of kernels for a weight; imported here, because it needs Triton."""
    return import_module(f"dyvision.ops.triton.{'_depthwise' if weight.ndim == 4 else '_dense'}_kernels")


def _in_channels(weight: Tensor, groups: int) -> int:
    return weight.shape[1] if weight.ndim == 4 else weight.shape[2] * groups


@torch.library.custom_op(
    "dyvision::per_sample_conv2d",
    mutates_args=(),
    schema="(Tensor input, Tensor weight, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor",
)
def convolve(input: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Tensor:
    """Convolve with a weight of four dimensions (:func:`depthwise`) or five (:func:`dense`)."""
    geometry = geometry_of(stride, padding, dilation, groups)
    return _kernels(weight).apply(input, weight, geometry, output_size(input, weight, geometry), False)


@convolve.register_fake
def _(input: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Tensor:
    size = output_size(input, weight, geometry_of(stride, padding, dilation, groups))
    return empty_like(input, weight.shape[1], *size)


@torch.library.custom_op(
    "dyvision::per_sample_conv2d_input",
    mutates_args=(),
    schema=(
        "(Tensor grad, Tensor weight, SymInt height, SymInt width, int[] stride, int[] padding, int[] dilation, "
        "int groups) -> Tensor"
    ),
)
def input_gradient(
    grad: Tensor, weight: Tensor, height: int, width: int, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """Compute the gradient of the input, ``[B, C_in, height, width]``, from that of the output."""
    return _kernels(weight).apply(grad, weight, geometry_of(stride, padding, dilation, groups), (height, width), True)


@input_gradient.register_fake
def _(
    grad: Tensor, weight: Tensor, height: int, width: int, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    return empty_like(grad, _in_channels(weight, groups), height, width)


@torch.library.custom_op(
    "dyvision::per_sample_conv2d_weight",
    mutates_args=(),
    schema=(
        "(Tensor grad, Tensor input, Tensor weight, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor"
    ),
)
def weight_gradient(
    grad: Tensor, input: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """Compute the gradient of the weight, which is read for its shape and type only."""
    return _kernels(weight).reduce(grad, input, weight, geometry_of(stride, padding, dilation, groups))


@weight_gradient.register_fake
def _(
    grad: Tensor, input: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    return weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.sizes = inputs[2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    d_input = d_weight = None
    if ctx.needs_input_grad[0]:
        d_input = input_gradient(grad, weight, *input.shape[-2:], *ctx.sizes)
    if ctx.needs_input_grad[1]:
        d_weight = weight_gradient(grad, input, weight, *ctx.sizes)
    return d_input, d_weight, None, None, None, None


convolve.register_autograd(_backward, setup_context=_save)
