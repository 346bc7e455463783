"""Convolution with a mixture of kernels per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from dyvision.ops._autograd import differentiable_mixture
from dyvision.ops._call_cache import Arguments, Call, prepare, remember
from dyvision.ops._checks import check_shape, check_tensors
from dyvision.ops._tiling import convolve_mixture
from dyvision.ops.autocast import without_autocast
from dyvision.ops.dynamic import add_bias
from dyvision.ops.formulations import TABLE
from dyvision.ops.geometry import Padding, Size
from dyvision.ops.kernels import Mixture
from dyvision.ops.modes import is_traced


def mixture_conv2d(
    input: Tensor,
    kernels: Tensor,
    coefficients: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    taps: Tensor | None = None,
) -> Tensor:
    """Convolve each sample with its mixture of K kernels: ``output[b] = conv2d(input[b], sum_k c[b, k] kernels[k])``.

    The kernels are mixed in the precision of the coefficients (float32 under autocast); the convolution runs in the
    input's, or autocast's, precision.

    Args:
        input: ``[B, C_in, H, W]``.
        kernels: ``[K, C_out, C_in/groups, kH, kW]``.
        coefficients: ``[B, K]``, or ``[B, K, C_out]`` for one mixture per output channel.
        bias: ``[K, C_out]``, mixed with the same coefficients, or ``[C_out]``, the same for all samples, or None.
        stride: Int or pair.
        padding: Int, pair, ``"valid"``, or ``"same"`` (TensorFlow's rule, any stride).
        dilation: Int or pair.
        groups: Number of groups.
        taps: ``[B, kH, kW]``, factors of the taps of each sample's kernel (ODConv's spatial attention), or
            ``[B, C_in/groups, kH, kW]``, of its weights for every output channel, or None.

    Returns:
        ``[B, C_out, H', W']``.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If shapes, groups, devices or the geometry do not fit.

    Example:
        >>> x, kernels = torch.randn(2, 3, 8, 8), torch.randn(4, 5, 3, 3, 3)
        >>> mixture_conv2d(x, kernels, torch.full((2, 4), 0.25), padding=1).shape
        torch.Size([2, 5, 8, 8])
    """
    call = remember(_prepare, (input, kernels, coefficients, bias, taps), (stride, padding, dilation, groups))
    if call.run is not None:
        return call.run(input, kernels, coefficients, bias, taps)
    if call.plan is None:
        return call.empty(input, kernels, coefficients, bias, taps)
    input, geometry, plan = call.ready(input), call.geometry, call.plan
    mixture = Mixture(kernels, coefficients, taps)
    row, traced = TABLE[plan.forward], is_traced()
    if bias is not None:
        shared = traced and row.adds_bias and bias.ndim == 1  # of all samples: it needs no copy for each
        bias = (bias if shared else mix_bias(bias, coefficients, input.shape[0])).to(call.dtype)
    if traced:
        if row.adds_bias:
            return row.convolve_mixture(input, mixture, geometry, bias)
        return add_bias(row.convolve_mixture(input, mixture, geometry), bias)
    if call.training:
        return add_bias(differentiable_mixture(input, mixture, geometry, plan, call.tiles), bias)
    return convolve_mixture(input, mixture, geometry, plan.forward, call.tiles[0], bias)


def _prepare(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], arguments: Arguments, training: bool
) -> Call:
    input, kernels, coefficients, bias, taps = tensors
    others = {"coefficients": coefficients, "bias": bias, "taps": taps}
    check_tensors(input, kernels, "kernels", arguments[-1], others)
    batch, (count, out_channels) = input.shape[0], kernels.shape[:2]
    check_shape("coefficients", coefficients, ((batch, count), (batch, count, out_channels)), "[B, K] or [B, K, C_out]")
    check_shape("bias", bias, ((count, out_channels), (out_channels,)), "[K, C_out] or [C_out]")
    shapes = ((batch, *kernels.shape[3:]), (batch, *kernels.shape[2:]))
    check_shape("taps", taps, shapes, "[B, kH, kW] or [B, C_in/groups, kH, kW]")
    return prepare(input, kernels, bias, Mixture(kernels, coefficients, taps), arguments, training)


def mix_bias(bias: Tensor, coefficients: Tensor, batch: int) -> Tensor:
    """The bias ``[B, C_out]`` of each sample, of ``[K, C_out]`` or ``[C_out]``; as in :func:`mixture_conv2d`."""
    if bias.ndim == 1:
        return bias.expand(batch, -1)
    dtype = torch.promote_types(bias.dtype, coefficients.dtype)
    with without_autocast(bias.device):
        equation = "bk,ko->bo" if coefficients.ndim == 2 else "bko,ko->bo"
        return torch.einsum(equation, coefficients.to(dtype), bias.to(dtype))
