"""What DCD's branch predicts and what it makes of the layer's weights, in one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dyvision.ops.native._convolution import addresses
from dyvision.ops.native.library import load


class LowRankWeights(NamedTuple):
    """Parameters of a layer ``scale W0 + P Phi Q``, with S numbers from which scale and Phi are predicted.

    Attributes:
        squeeze: ``[S, C * p * p]``, of the pooled map.
        gate: ``[S, S]``.
        predict: ``[O + L * L, S]``, of the scales and of Phi.
        predict_bias: ``[O + L * L]``.
        expand: P ``[O, L]``.
        expand_bias: ``[O]``, or None.
        reduce: Q ``[L, C]``.
        reduce_bias: ``[L]``.
        bias: ``[O]``, which is scaled, or None.
    """

    squeeze: Tensor
    gate: Tensor
    predict: Tensor
    predict_bias: Tensor
    expand: Tensor
    expand_bias: Tensor | None
    reduce: Tensor
    reduce_bias: Tensor
    bias: Tensor | None


class LowRank(NamedTuple):
    """What each sample's layer is.

    Attributes:
        scale: ``[B, O]``, of the output channels of W0.
        up: ``P Phi``, ``[B, O, L]``.
        shift: ``P (Phi reduce_bias) + expand_bias + scale bias``, ``[B, O]``.
        kernel: ``scale W0 + P Phi Q``, ``[B, O, C]``; None if it was not asked for.
    """

    scale: Tensor
    up: Tensor
    shift: Tensor
    kernel: Tensor | None


def low_rank(
    input: Tensor, weights: LowRankWeights, static: Tensor | None, pool: int, instructions: str | None = None
) -> LowRank | None:
    """Predict and fuse, for float32 tensors in memory.

    Args:
        input: ``[B, C, H, W]``.
        weights: The layer's.
        static: W0 ``[O, C]``, if the whole kernel is wanted.
        pool: Side p of the pooled map.
        instructions: One of :func:`instruction_sets`; by default the fastest, or what the environment says.

    Returns:
        Scales, low-rank part, shift and kernel; None if the kernels are not available.

    Raises:
        MemoryError: If there is no room for what it works with.
    """
    library = load(instructions)[0]
    if library is None:
        return None
    batch, channels, height, width = input.shape
    outputs, rank = weights.expand.shape
    found = LowRank(
        input.new_empty(batch, outputs),
        input.new_empty(batch, outputs, rank),
        input.new_empty(batch, outputs),
        None if static is None else input.new_empty(batch, outputs, channels),
    )
    *others, bias = weights
    read, _kept = addresses((input, *others, static, bias))
    failed = library.functions.dyv_fuse(
        library.number,
        *(batch, channels, height, width, pool, weights.gate.shape[0], outputs, rank),
        *read,
        *[None if tensor is None else tensor.data_ptr() for tensor in found],
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for {batch} kernels of {outputs} x {channels}")
    return found
