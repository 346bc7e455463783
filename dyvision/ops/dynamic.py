"""Convolution with one kernel per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from dyvision.ops import triton
from dyvision.ops._autograd import PerSampleConvolution
from dyvision.ops._checks import check_shape, check_tensors
from dyvision.ops._formulations import FORWARD
from dyvision.ops._geometry import Geometry, Padding, Size, resolve
from dyvision.ops.mixing import autocasts
from dyvision.ops.planner import needs_backward, plan_dynamic


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
    input, weight = autocast_together(input, weight)
    training = needs_backward(input, weight)
    plan = plan_dynamic(input, weight, geometry, training)
    if plan.forward == "triton":
        output = convolve_by_triton(input, weight, geometry)
    # compilers see the plain operations and plan the backward pass themselves
    elif training and not torch.compiler.is_compiling():
        output = PerSampleConvolution.apply(input, weight, geometry, plan.forward, plan.backward)
    else:
        output = FORWARD[plan.forward](input, weight, geometry)
    return add_bias(output, bias)


def convolve_by_triton(input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The kernel for the case: depthwise with an output per channel, or any other."""
    if geometry.groups == input.shape[1] == weight.shape[1]:
        return triton.depthwise(input, weight[:, :, 0], geometry)
    return triton.dense(input, weight, geometry)


def add_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    """Add ``[B, C_out]`` to ``[B, C_out, H', W']``."""
    return output if bias is None else output + bias.to(output.dtype)[:, :, None, None]


def autocast_together(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast tensors to autocast's type, as autocast does for a convolution; elsewhere to the first one's."""
    device, dtype = tensors[0].device, tensors[0].dtype
    if dtype != torch.float64 and autocasts(device):
        dtype = torch.get_autocast_dtype(device.type)
    return tuple(tensor if tensor.dtype == dtype else tensor.to(dtype) for tensor in tensors)
