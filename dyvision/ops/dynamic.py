"""Convolution with one kernel per sample."""

from __future__ import annotations

from torch import Tensor

from dyvision.ops._autograd import differentiable_convolution
from dyvision.ops._call_cache import Arguments, Call, prepare, remember
from dyvision.ops._checks import check_shape, check_tensors
from dyvision.ops.formulations import TABLE
from dyvision.ops.geometry import Padding, Size
from dyvision.ops.modes import is_traced


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
        ValueError: If shapes, groups, devices or the geometry do not fit.

    Example:
        >>> import torch
        >>> x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 3, 3, 3)
        >>> dynamic_conv2d(x, w, padding=1).shape
        torch.Size([2, 5, 8, 8])
    """
    call = remember(_prepare, (input, weight, bias), (stride, padding, dilation, groups))
    if call.run is not None:
        return call.run(input, weight, bias)
    if call.plan is None:
        return call.empty(input, weight, bias)
    input, geometry, plan = call.ready(input), call.geometry, call.plan
    weight = weight if weight.dtype == call.dtype else weight.to(call.dtype)
    bias = bias if bias is None or bias.dtype == call.dtype else bias.to(call.dtype)
    if is_traced():
        # compilers see the plain operations and plan the backward pass themselves; nothing is added in place
        row = TABLE[plan.forward]
        if row.adds_bias:
            return row.forward(input, weight, geometry, bias)
        return add_bias(row.forward(input, weight, geometry, None), bias)
    if call.training:
        return add_bias(differentiable_convolution(input, weight, geometry, plan), bias)
    return TABLE[plan.forward].forward(input, weight, geometry, bias)


def _prepare(tensors: tuple[Tensor, Tensor, Tensor | None], arguments: Arguments, training: bool) -> Call:
    input, weight, bias = tensors
    check_tensors(input, weight, "weight", arguments[-1], {"bias": bias})
    if weight.shape[0] != input.shape[0]:
        raise ValueError(
            f"weight must hold one kernel per sample; input {tuple(input.shape)} has {input.shape[0]} samples, "
            f"weight {tuple(weight.shape)} has {weight.shape[0]}"
        )
    check_shape("bias", bias, ((input.shape[0], weight.shape[1]),), "[B, C_out]")
    return prepare(input, weight, bias, None, arguments, training)


def add_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    """Add ``[B, C_out]`` to ``[B, C_out, H', W']``."""
    return output if bias is None else output + bias[:, :, None, None]
