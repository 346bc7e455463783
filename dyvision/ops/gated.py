"""Mixtures whose kernels have gates along their other dimensions too (ODConv), without a pass over maps for each."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyvision.ops.mixture import mixture_conv2d
from dyvision.ops.plain import have_shapes, is_plain, is_recorded, plain_convolution
from dyvision.ops.planned import plans_natively


def gated_mixture(
    input: Tensor,
    kernels: Tensor,
    coefficients: Tensor | None,
    channels: Tensor,
    filters: Tensor | None,
    taps: Tensor | None,
    bias: Tensor | None,
    arguments: dict[str, Any],
) -> Tensor | None:
    """Convolve each sample with ``filters channels taps sum_k c[k] kernels[k]``, gates applied while kernels are mixed.

    Args:
        input: ``[B, C_in, H, W]``.
        kernels: ``[K, C_out, C_in/groups, kH, kW]``.
        coefficients: ``[B, K]``; None for a single kernel.
        channels: ``[B, C_in]``, of input channels.
        filters: ``[B, C_out]``, of output channels, or None.
        taps: ``[B, kH, kW]``, of the taps, or None.
        bias: ``[C_out]``, which has no gate, or None.
        arguments: Stride, padding, dilation and groups of the convolution, by name.

    Returns:
        ``[B, C_out, H', W']``; None where native kernels may not compute or are not the fastest in training, where
        the padding is not the same on both sides, and for kernels in groups of several channels.
    """
    if input.ndim != 4 or kernels.ndim != 5:
        return None
    groups, (batch, inputs), (count, outputs, depth, *kernel) = arguments["groups"], input.shape[:2], kernels.shape
    if groups > 1 and depth > 1:
        return None
    tensors = [t for t in (input, kernels, coefficients, channels, filters, taps, bias) if t is not None]
    if not is_plain(tensors):
        return None
    per_channel, kind = groups > 1 or filters is not None, "none" if bias is None else "channels"
    fits = inputs == groups * depth and outputs % groups == 0 and (coefficients is not None or count == 1)
    if not fits or not have_shapes(
        (coefficients, (batch, count)),
        (channels, (batch, inputs)),
        (filters, (batch, outputs)),
        (taps, (batch, *kernel)),
        (bias, (outputs,)),
    ):
        return None  # the general way says what is wrong
    recorded = is_recorded(tensors)
    called = (arguments["stride"], arguments["padding"], arguments["dilation"], groups)
    if recorded and not plans_natively(input.shape, kernels.shape, called, training=True, linear=False):
        return None
    rows = None if filters is None else filters[:, None]
    factors = taps
    if groups > 1:  # an output channel has one input channel
        by_output = channels.repeat_interleave(outputs // groups, 1)[:, None]
        rows = by_output if rows is None else rows * by_output
    else:
        factors = channels[:, :, None, None].expand(-1, -1, *kernel)
        factors = factors if taps is None else factors * taps[:, None]
    coefficients = channels.new_ones(batch, 1) if coefficients is None else coefficients
    mix = coefficients if rows is None else coefficients[:, :, None] * rows
    if recorded:
        return mixture_conv2d(input, kernels, mix, bias, **arguments, taps=factors)
    convolve = plain_convolution(
        input.shape,
        kernels.shape[1:],
        **arguments,
        mixed=count,
        per_channel=per_channel,
        bias=kind,
        by_channel=groups == 1,
    )
    return None if convolve is None else convolve(input, kernels, mix, bias, factors)
