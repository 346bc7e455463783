"""Kernels with a low-rank part that depends on the input (DCD): branch, folding and convolution in a call or a few."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Size as Shape
from torch import Tensor

from dyvision.ops import native
from dyvision.ops.activation import activated
from dyvision.ops.geometry import resolve
from dyvision.ops.native import LowRankWeights
from dyvision.ops.plain import is_plain_inference, plain_convolution

#: samples up to which this is faster for 1x1 kernels; of more, and with other kernels of more than one, the library's
#: convolution with W0 and its batched products take less time (measured on an AMD EPYC, AVX-512)
_MOST_POINTWISE = 4


def low_rank_conv2d(
    input: Tensor,
    static: Tensor,
    weights: LowRankWeights,
    pool: int,
    centre: Callable[[Tensor], Tensor],
    arguments: dict[str, Any],
    activation: str = "none",
) -> Tensor | None:
    """Convolve each sample with ``scale W0``, plus ``P Phi Q`` at one tap; scale and Phi are predicted from ``input``.

    Args:
        input: ``[B, C, H, W]``.
        static: W0 ``[O, C/groups, kH, kW]``.
        weights: The layer's others.
        pool: Side of the pooled map from which the branch predicts.
        centre: Crops or pads ``input`` so that a 1x1 convolution with the stride, Q, visits that tap.
        arguments: Stride, padding, dilation and groups of the convolution with W0, by name.
        activation: One of :data:`dyvision.ops.native.ACTIVATIONS`, applied to the output.

    Returns:
        ``[B, O, H', W']``; None where a call is no plain inference, pads one side more than the other, or has more
        samples than are worth it.
    """
    if not is_plain_inference(input, (static, *weights)):
        return None
    shapes = tuple([None if tensor is None else tensor.shape for tensor in (static, *weights)])
    groups = arguments["groups"]
    if not _is_worth_it(input.shape, shapes, pool, groups):
        return None
    if groups > 1:
        output = _convolve_grouped(input, static, weights, pool, centre, arguments)
        return None if output is None else activated(output, activation)
    layer = _prepare(
        input.shape, static.shape, len(weights.gate), weights.reduce.shape[0], pool, activation, *arguments.values()
    )
    return None if layer is None else layer(input, static, weights)


@lru_cache(4096)
def _is_worth_it(shape: Shape, shapes: tuple[Shape | None, ...], pool: int, groups: int) -> bool:
    """Whether there are few samples, and the parameters' sizes are those of one layer: nothing beside them is read."""
    static, _squeeze, gate, _predict, _bias, expand, *_ = shapes
    if len(shape) != 4 or static is None or gate is None or expand is None or len(expand) != 4:
        return False
    (outputs, rank), channels, width = expand[:2], shape[1], gate[0]
    expected = (
        (outputs, channels // groups, *static[2:]),
        (width, channels * pool**2),
        (width, width),
        (outputs + rank**2, width),
        (outputs + rank**2,),
        (outputs, rank, 1, 1),
        (outputs,),
        (rank, channels, 1, 1),
        (rank,),
        (outputs,),
    )
    most = _MOST_POINTWISE if static[2:] == (1, 1) else 1
    return shape[0] <= most and all(one in (None, size) for one, size in zip(shapes, expected, strict=True))


@lru_cache(4096)
def _prepare(
    shape: Shape, kernel_shape: Shape, width: int, rank: int, pool: int, activation: str, *arguments: Any
) -> native.LowRankLayer | None:
    edges, geometry = resolve(shape, kernel_shape[2:], *arguments)
    if edges is not None:
        return None
    sizes = (width, rank, pool)
    return native.low_rank_layer(shape[0], (shape[2], shape[3]), tuple(kernel_shape), geometry, *sizes, activation)


def _convolve_grouped(
    input: Tensor,
    static: Tensor,
    weights: LowRankWeights,
    pool: int,
    centre: Callable[[Tensor], Tensor],
    arguments: dict[str, Any],
) -> Tensor | None:
    """With a W0 in groups, to whose kernels the dense part cannot be added."""
    scaled = plain_convolution(input.shape, static.shape, **arguments, mixed=1, per_channel=True, bias="samples")
    found = None if scaled is None else native.low_rank(input, weights, pool)
    if scaled is None or found is None:
        return None
    output = scaled(input, static, found.scale, found.shift)
    low = torch.conv2d(centre(input), weights.reduce, None, arguments["stride"])
    output.flatten(2).baddbmm_(found.up, low.flatten(2))
    return output
