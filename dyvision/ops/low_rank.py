"""Kernels with a low-rank part that depends on the input (DCD): branch, folding and convolution in a few calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dyvision.ops import native
from dyvision.ops.native import LowRankWeights
from dyvision.ops.plain import have_shapes, is_plain_inference, plain_convolution

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
) -> Tensor | None:
    """Convolve each sample with ``scale W0``, plus ``P Phi Q`` at one tap; scale and Phi are predicted from ``input``.

    Args:
        input: ``[B, C, H, W]``.
        static: W0 ``[O, C/groups, kH, kW]``.
        weights: The layer's others.
        pool: Side of the pooled map from which the branch predicts.
        centre: Crops or pads ``input`` so that a 1x1 convolution with the stride, Q, visits that tap.
        arguments: Stride, padding, dilation and groups of the convolution with W0, by name.

    Returns:
        ``[B, O, H', W']``; None where a call is no plain inference, pads one side more than the other, or has more
        samples than are worth it.
    """
    if not is_plain_inference(input, (static, *weights)):
        return None
    if len(input) > (_MOST_POINTWISE if static.shape[2:] == (1, 1) else 1) or not _fit(
        input, static, weights, pool, arguments
    ):
        return None
    scaled = plain_convolution(input.shape, static.shape, **arguments, mixed=1, per_channel=True, bias="samples")
    if scaled is None:
        return None
    batch, outputs, height, width = scaled.output_shape
    channels, rank = weights.reduce.shape[1], weights.reduce.shape[0]
    # per sample: what folding takes, and what the part takes if it is applied to maps
    cheaper = outputs * channels < height * width * (outputs + channels)
    folds = static.shape[1:] == (channels, 1, 1) and arguments["padding"] in ((0, 0), "same", "valid") and cheaper
    found = native.low_rank(input, weights, static.flatten(1) if folds else None, pool)
    if found is None:
        return None
    if found.kernel is not None:
        convolve = plain_convolution(input.shape, static.shape, **arguments, bias="samples")
        return None if convolve is None else convolve(input, found.kernel, None, found.shift)
    output = scaled(input, static, found.scale, found.shift)
    low = torch.conv2d(centre(input), weights.reduce.view(rank, channels, 1, 1), None, arguments["stride"])
    output.view(batch, outputs, -1).baddbmm_(found.up, low.flatten(2))
    return output


def _fit(input: Tensor, static: Tensor, weights: LowRankWeights, pool: int, arguments: dict[str, Any]) -> bool:
    """Whether the parameters have the sizes of one layer: nothing beside them is read."""
    (outputs, rank), channels, width = weights.expand.shape, input.shape[1], len(weights.gate)
    shapes = (
        (outputs, channels // arguments["groups"], *static.shape[2:]),
        (width, channels * pool**2),
        (width, width),
        (outputs + rank**2, width),
        (outputs + rank**2,),
        (outputs, rank),
        (outputs,),
        (rank, channels),
        (rank,),
        (outputs,),
    )
    return have_shapes(*zip((static, *weights), shapes, strict=True))
