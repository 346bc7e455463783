"""A whole layer in one call: the branch, the gates that it predicts, and the convolution with the kernels they mix."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.native._convolution import Convolution, addresses, convolution


class Gates(NamedTuple):
    """How many numbers a branch predicts of each kind, in this order; all but weights of kernels are gates in (0, 1).

    Attributes:
        channel: Of input channels, C_in or 0.
        filter: Of output channels, C_out or 0.
        tap: Of taps, kH * kW or 0.
        kernel: Of kernels, K, or 0 for a single one.
        softmax: Whether the kernels' weights sum to one; else each is a gate, too.
    """

    channel: int = 0
    filter: int = 0
    tap: int = 0
    kernel: int = 0
    softmax: bool = True

    @property
    def total(self) -> int:
        """All of them."""
        return self.channel + self.filter + self.tap + self.kernel


class Layer:
    """Layer with contiguous float32 tensors of fixed shapes in memory, for inference; see :func:`layer`."""

    def __init__(self, whole: Convolution, hidden: int, gates: Gates) -> None:
        self._whole = whole  # which owns the plan
        self._call, self._threads = whole.library.functions.dyv_apply_layer, torch.get_num_threads
        self._fixed = (whole.library.number, whole.plan, hidden, *gates)
        #: ``(B, C_out, H', W')``
        self.output_shape = whole.output_shape

    def __call__(
        self,
        input: Tensor,
        kernels: Tensor,
        bias: Tensor | None,
        first: Tensor | None,
        first_bias: Tensor | None,
        second: Tensor,
        second_bias: Tensor | None,
    ) -> Tensor:
        """Predict, mix and convolve.

        Args:
            input: ``[B, C_in, H, W]``.
            kernels: ``[K, C_out, C_in/groups, kH, kW]``.
            bias: As prepared.
            first: Weight ``[A, C_in]`` of the branch's first linear layer, behind which is a ReLU.
            first_bias: ``[A]``.
            second: Weight ``[N, A]`` of the last one, or ``[N, C_in]`` of the only one.
            second_bias: ``[N]``.

        Returns:
            ``[B, C_out, H', W']``.

        Raises:
            MemoryError: If there is no room for what it works with.
        """
        output = input.new_empty(self.output_shape)
        read, _kept = addresses((input, first, first_bias, second, second_bias, kernels, bias))
        if self._call(*self._fixed, *read, output.data_ptr(), self._threads()):
            raise MemoryError(f"no memory for a layer with an output of {list(self.output_shape)}")
        return output


# as many signatures as the operators remember
@lru_cache(4096)
def layer(
    batch: int,
    size: tuple[int, int],
    kernel_shape: tuple[int, ...],
    geometry: Geometry,
    gates: Gates,
    hidden: int = 0,
    bias: str = "none",
    activation: str = "none",
    instructions: str | None = None,
) -> Layer | None:
    """Prepare a layer: ``N = gates.total`` numbers of each sample mix kernels and are gates of their weights.

    Args:
        batch: Samples B.
        size: Height and width of the input.
        kernel_shape: ``(C_out, C_in/groups, kH, kW)``.
        geometry: Stride, padding, dilation, groups.
        gates: What is predicted; gates of input channels only for one group, or groups of one channel.
        hidden: Width A of the branch's hidden layer; 0 without one.
        bias: One of :data:`BIASES`, but not ``"samples"``.
        activation: One of :data:`ACTIVATIONS`, applied to the output.
        instructions: One of :func:`instruction_sets`; by default the fastest, or what the environment says.

    Returns:
        The layer; None if the map is too large for it, or the kernels are not available.
    """
    groups = geometry.groups
    whole = convolution(
        *(batch, size, kernel_shape, geometry, max(gates.kernel, 1)),
        per_channel=gates.filter > 0 or (gates.channel > 0 and groups > 1),
        bias=bias,
        activation=activation,
        by_channel=gates.channel > 0 and groups == 1,
        instructions=instructions,
    )
    return None if whole is None else Layer(whole, hidden, gates)
