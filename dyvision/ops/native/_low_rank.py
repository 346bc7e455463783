"""DCD: what its branch predicts and what that makes of the layer's weights, or the whole layer, in one call."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.native._convolution import Convolution, addresses, convolution
from dyvision.ops.native.library import load


class LowRankWeights(NamedTuple):
    """Parameters of a layer ``scale W0 + P Phi Q``, with S numbers from which scale and Phi are predicted.

    Attributes:
        squeeze: ``[S, C * p * p]``, of the pooled map.
        gate: ``[S, S]``.
        predict: ``[O + L * L, S]``, of the scales and of Phi.
        predict_bias: ``[O + L * L]``.
        expand: P ``[O, L]``, or with axes of length one behind these, as Q.
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
    """

    scale: Tensor
    up: Tensor
    shift: Tensor


def low_rank(input: Tensor, weights: LowRankWeights, pool: int, instructions: str | None = None) -> LowRank | None:
    """Predict and fuse, for float32 tensors in memory.

    Args:
        input: ``[B, C, H, W]``.
        weights: The layer's.
        pool: Side p of the pooled map.
        instructions: One of :func:`instruction_sets`; by default the fastest, or what the environment says.

    Returns:
        Scales, low-rank part and shift; None if the kernels are not available.

    Raises:
        MemoryError: If there is no room for what it works with.
    """
    library = load(instructions)[0]
    if library is None:
        return None
    batch, channels, height, width = input.shape
    outputs, rank = weights.expand.shape[:2]
    found = LowRank(
        input.new_empty(batch, outputs), input.new_empty(batch, outputs, rank), input.new_empty(batch, outputs)
    )
    read, _kept = addresses((input, *weights))
    failed = library.functions.dyv_fuse(
        library.number,
        *(batch, channels, height, width, pool, weights.gate.shape[0], outputs, rank),
        *read,
        *[tensor.data_ptr() for tensor in found],
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for the low-rank parts of {batch} samples")
    return found


class LowRankLayer:
    """Layer with contiguous float32 tensors of fixed shapes in memory, for inference; see :func:`low_rank_layer`."""

    def __init__(self, whole: Convolution, maps: tuple[Convolution, Convolution] | None, *sizes: int) -> None:
        self._call = whole.library.functions.dyv_apply_low_rank
        self._plans = (whole, *(maps or ()))  # which own what the addresses are of
        plans = (whole.plan, *((None, None) if maps is None else (one.plan for one in maps)))
        self._fixed = (whole.library.number, *plans, *sizes)
        #: ``(B, O, H', W')``
        self.output_shape = whole.output_shape

    def __call__(self, input: Tensor, static: Tensor, weights: LowRankWeights) -> Tensor:
        """Predict and convolve.

        Args:
            input: ``[B, C, H, W]``.
            static: W0 ``[O, C, kH, kW]``.
            weights: The layer's.

        Returns:
            ``[B, O, H', W']``.

        Raises:
            MemoryError: If there is no room for what it works with.
        """
        output = input.new_empty(self.output_shape)
        read, _kept = addresses((input, *weights, static))
        if self._call(*self._fixed, *read, output.data_ptr(), torch.get_num_threads()):
            raise MemoryError(f"no memory for a layer with an output of {list(self.output_shape)}")
        return output


# as many signatures as the operators remember
@lru_cache(4096)
def low_rank_layer(
    batch: int,
    size: tuple[int, int],
    kernel_shape: tuple[int, ...],
    geometry: Geometry,
    width: int,
    rank: int,
    pool: int,
    activation: str = "none",
    instructions: str | None = None,
) -> LowRankLayer | None:
    """Prepare a layer of one group that convolves each sample with ``scale W0``, plus ``P Phi Q`` at its centre tap.

    The second part becomes part of the kernels as they are used, or, of 1x1 kernels whose maps are smaller than that,
    is applied to maps.

    Args:
        batch: Samples B.
        size: Height and width of the input.
        kernel_shape: ``(O, C, kH, kW)``.
        geometry: Stride, padding, dilation; one group.
        width: S, of the branch.
        rank: L.
        pool: Side p of the pooled map.
        activation: One of :data:`ACTIVATIONS`, applied to the output.
        instructions: One of :func:`instruction_sets`; by default the fastest, or what the environment says.

    Returns:
        The layer; None if the map is too large for it, for a single input channel, whose convolution is computed in
        another way, and if the kernels are not available.
    """
    outputs, channels, *kernel = kernel_shape
    if channels == 1:
        return None
    pixels, plain = math.prod(geometry.output_size(size, kernel)), Geometry((1, 1), (0, 0), (1, 1), 1)
    maps = None
    if kernel == [1, 1] and geometry == plain and pixels * (outputs + channels) < outputs * channels:
        reduce = convolution(batch, size, (rank, channels, 1, 1), plain, mixed=1, instructions=instructions)
        expand = convolution(
            *(batch, size, (outputs, rank, 1, 1), plain),
            activation=activation,
            accumulate=True,
            instructions=instructions,
        )
        maps = None if reduce is None or expand is None else (reduce, expand)
    whole = convolution(
        *(batch, size, kernel_shape, geometry),
        mixed=1,
        per_channel=True,
        bias="samples",
        activation="none" if maps else activation,
        instructions=instructions,
    )
    centre = (kernel[0] - 1) // 2 * kernel[1] + (kernel[1] - 1) // 2
    return None if whole is None else LowRankLayer(whole, maps, centre, pool, width, rank)
