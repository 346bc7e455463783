"""Convolution with a mixture of kernels per sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops import triton
from dyvision.ops._autograd import MixtureConvolution
from dyvision.ops._call_cache import Arguments, Call, prepare, remember
from dyvision.ops._checks import check_shape, check_tensors
from dyvision.ops._fast_path import straight_mixture
from dyvision.ops._formulations import FORWARD
from dyvision.ops._tiling import convolve_mixture, is_tiled
from dyvision.ops.autocast import without_autocast
from dyvision.ops.dynamic import add_bias, convolve_by_triton
from dyvision.ops.geometry import Geometry, Padding, Size
from dyvision.ops.kernels import Mixture
from dyvision.ops.modes import is_traced
from dyvision.ops.planner import EMPTY


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
        taps: ``[B, kH, kW]``, factors of the taps of each sample's kernel (ODConv's spatial attention), or None.

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
        return call.run(input, kernels, coefficients, bias)
    if call.plan.forward == EMPTY:
        return call.empty(input, kernels, coefficients, bias, taps)
    input, geometry, plan = call.ready(input), call.geometry, call.plan
    mixture = Mixture(kernels, coefficients, taps)
    shift = None if bias is None else _mix_bias(bias, coefficients, input.shape[0]).to(call.dtype)
    if plan.forward == "mix_outputs":
        return add_bias(_mix_outputs(input, kernels, coefficients, geometry), shift)
    if plan.forward == "triton":
        return add_bias(_mix_by_triton(input, mixture, geometry), shift)
    if is_traced():
        output = FORWARD[plan.forward](input, mixture.mix().to(input.dtype), geometry, None)
        return add_bias(output, shift)
    if call.training:
        output = MixtureConvolution.apply(input, *mixture, geometry, *plan)
        return add_bias(output, shift)
    if call.tiled:
        return convolve_mixture(input, mixture, geometry, plan.forward, shift)
    return FORWARD[plan.forward](input, mixture.mix().to(call.dtype), geometry, shift)


def _prepare(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], arguments: Arguments, training: bool
) -> Call:
    input, kernels, coefficients, bias, taps = tensors
    others = {"coefficients": coefficients, "bias": bias, "taps": taps}
    check_tensors(input, kernels, "kernels", arguments[-1], others)
    batch, (count, out_channels) = input.shape[0], kernels.shape[:2]
    check_shape("coefficients", coefficients, ((batch, count), (batch, count, out_channels)), "[B, K] or [B, K, C_out]")
    check_shape("bias", bias, ((count, out_channels), (out_channels,)), "[K, C_out] or [C_out]")
    check_shape("taps", taps, ((batch, *kernels.shape[3:]),), "[B, kH, kW]")
    call = prepare(tensors, arguments, training, mixed=count, linear=taps is None)
    if call.plan.forward == EMPTY or is_traced():
        return call
    name = call.plan.forward
    if is_tiled(call.dtype, batch, Mixture(kernels, coefficients, taps), call.geometry, name):
        return call._replace(tiled=True)
    if not call.plain or taps is not None or (bias is not None and bias.ndim == 2):
        return call
    return call._replace(run=straight_mixture(name, coefficients, input.shape[2:], kernels.shape[1:], call.geometry))


def _mix_by_triton(input: Tensor, mixture: Mixture, geometry: Geometry) -> Tensor:
    """Mixing and product in one kernel where it is 1x1; elsewhere the kernels are mixed before."""
    if geometry.is_pointwise and mixture.taps is None and mixture.kernels.shape[3:] == (1, 1):
        return triton.mixture_pointwise(input, mixture.kernels, mixture.coefficients)
    return convolve_by_triton(input, mixture.mix(), geometry)


def _mix_bias(bias: Tensor, coefficients: Tensor, batch: int) -> Tensor:
    if bias.ndim == 1:
        return bias.expand(batch, -1)
    dtype = torch.promote_types(bias.dtype, coefficients.dtype)
    with without_autocast(bias.device):
        equation = "bk,ko->bo" if coefficients.ndim == 2 else "bko,ko->bo"
        return torch.einsum(equation, coefficients.to(dtype), bias.to(dtype))


def _mix_outputs(input: Tensor, kernels: Tensor, coefficients: Tensor, geometry: Geometry) -> Tensor:
    """Convolve with all K kernels at once and mix the results (DyNet's training form, its Eq. 2)."""
    count, out_channels = kernels.shape[:2]
    groups = geometry.groups
    # group-major, so that one convolution with `groups` groups serves all kernels
    stacked = kernels.view(count, groups, out_channels // groups, *kernels.shape[2:]).transpose(0, 1)
    outputs = F.conv2d(
        input,
        stacked.reshape(count * out_channels, *kernels.shape[2:]).to(input.dtype),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        groups,
    )
    size = outputs.shape[-2:]
    outputs = outputs.view(input.shape[0], groups, count, out_channels // groups, *size)
    per_channel = coefficients[:, :, None].expand(-1, -1, out_channels) if coefficients.ndim == 2 else coefficients
    weights = per_channel.reshape(-1, count, groups, out_channels // groups).transpose(1, 2)
    return (outputs * weights.to(outputs.dtype)[..., None, None]).sum(2).flatten(1, 2)
