"""Straight-line code for inference, put together once per signature: all questions of the general path are answered.

At batch size 1 a layer's products take a tenth of a millisecond, and twenty calls of Python functions as long again.
The code of the convolution itself comes from its formulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dyvision.ops.formulations import TABLE, Convolve, ConvolveMixture
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture, sum_by_channel


def straight_code(
    name: str, input: Tensor, weight: Tensor, bias: Tensor | None, mixture: Mixture | None, geometry: Geometry
) -> Callable[..., Tensor] | None:
    """Code for tensors of the shapes of these.

    Args:
        name: The formulation.
        input: ``[B, C_in, H, W]``.
        weight: ``[N, C_out, C_in/groups, kH, kW]``.
        bias: ``[B, C_out]``, or of a mixture ``[C_out]`` or ``[K, C_out]``.
        mixture: What kernels are mixed from, None if they are given.
        geometry: Stride, padding, dilation, groups.

    Returns:
        ``(input, weight, bias)``, or ``(input, kernels, coefficients, bias, taps)`` for a mixture; None for a case
        that is not common enough.
    """
    row = TABLE[name]
    if mixture is not None and row.straight_of_mixture is not None:
        return row.straight_of_mixture(input, mixture, bias, geometry)
    straight = row.straight
    convolve = None if straight is None else straight(input.shape[0], input.shape[2:], weight.shape[1:], geometry)
    if convolve is None or mixture is None:
        return convolve
    mixes_more = mixture.taps is not None or (bias is not None and bias.ndim == 2)
    return None if mixes_more else _mix_first(convolve, mixture)


def _mix_first(convolve: Convolve, mixture: Mixture) -> ConvolveMixture:
    if mixture.coefficients.ndim == 2:
        return lambda x, kernels, mix, bias, _: convolve(x, torch.mm(mix, kernels.flatten(1)), bias)
    shape = (-1, mixture.kernels.shape[1], math.prod(mixture.kernels.shape[2:]))
    return lambda x, kernels, mix, bias, _: convolve(x, sum_by_channel(mix, kernels.reshape(shape)), bias)
