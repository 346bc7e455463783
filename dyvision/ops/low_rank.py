"""Kernels with a low-rank part that depends on the input (DCD): branch, folding and convolution in a few calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dyvision.ops import native
from dyvision.ops.geometry import resolve
from dyvision.ops.native import LowRankWeights
from dyvision.ops.plain import is_plain_inference


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
        ``[B, O, H', W']``; None where a call is no plain inference, or pads one side more than the other.
    """
    if not is_plain_inference(input, (static, *weights)):
        return None
    edges, geometry = resolve(input, static.shape[2:], **arguments)
    if edges is not None or not _fit(input, static, weights, pool):
        return None
    batch, size = input.shape[0], tuple(input.shape[2:])
    outputs, channels = static.shape[0], input.shape[1]
    rank = weights.expand.shape[1]
    height, width = geometry.output_size(size, static.shape[2:])
    # per sample: what folding takes, and what the part takes if it is applied to maps
    folds = static.shape[1:] == (channels, 1, 1) and geometry.padding == (0, 0)
    folds = folds and outputs * channels < height * width * (outputs + channels)
    found = native.low_rank(input, weights, static.flatten(1) if folds else None, pool)
    if found is None:
        return None
    if found.kernel is not None:
        convolve = native.convolution(batch, size, static.shape, geometry, bias="samples")
        return None if convolve is None else convolve(input, found.kernel, None, found.shift)
    scaled = native.convolution(batch, size, static.shape, geometry, 1, True, "samples")
    if scaled is None:
        return None
    output = scaled(input, static, found.scale, found.shift)
    low = torch.conv2d(centre(input), weights.reduce.view(rank, channels, 1, 1), None, geometry.stride)
    output.view(batch, outputs, -1).baddbmm_(found.up, low.flatten(2))
    return output


def _fit(input: Tensor, static: Tensor, weights: LowRankWeights, pool: int) -> bool:
    """Whether the parameters have the sizes of one layer: nothing beside them is read."""
    (outputs, rank), channels, width = weights.expand.shape, input.shape[1], len(weights.gate)
    shapes = (
        (outputs, *static.shape[1:]),
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
    tensors = (static, *weights)
    return all(tensor is None or tensor.shape == shape for tensor, shape in zip(tensors, shapes, strict=True))
