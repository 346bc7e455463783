"""A convolution of one signature, prepared once and called with tensors."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.native.library import Library, Problem, load

#: of what a bias may be given: nothing, output channels, samples and output channels, kernels and output channels
BIASES = ("none", "channels", "samples", "kernels")
ACTIVATIONS = ("none", "relu", "relu6")


def kind_of_bias(shape: Sequence[int] | None) -> str:
    """Which of :data:`BIASES` a mixture's bias of a shape is, ``[C_out]`` or ``[K, C_out]``, or None."""
    return "none" if shape is None else ("channels" if len(shape) == 1 else "kernels")


class Convolution:
    """Convolution of contiguous float32 tensors of fixed shapes in memory, for inference; see :func:`convolution`."""

    def __init__(self, library: Library, problem: Problem, plan: int) -> None:
        self.library, self.plan = library, plan
        self._call = library.functions.dyv_convolve
        #: ``(B, C_out, H', W')``
        self.output_shape = (problem.batch, problem.out_channels, problem.out_h, problem.out_w)
        # not at exit: a thread that outlives the interpreter may be computing
        weakref.finalize(self, library.functions.dyv_free, plan).atexit = False

    def __call__(
        self,
        input: Tensor,
        kernels: Tensor,
        coefficients: Tensor | None = None,
        bias: Tensor | None = None,
        factors: Tensor | None = None,
    ) -> Tensor:
        """Convolve.

        Args:
            input: ``[B, C_in, H, W]``.
            kernels: ``[K, C_out, C_in/groups, kH, kW]`` to be mixed, or ``[B, C_out, C_in/groups, kH, kW]``.
            coefficients: ``[B, K]`` or ``[B, K, C_out]``; None if the kernels are given.
            bias: As prepared.
            factors: ``[B, kH, kW]``, of the taps of each sample's mixture, or ``[B, C_in/groups, kH, kW]``, or None.

        Returns:
            ``[B, C_out, H', W']``.

        Raises:
            MemoryError: If there is no room for what it works with.
        """
        output = input.new_empty(self.output_shape)
        read, _kept = addresses((input, kernels, coefficients, factors, bias))
        failed = self._call(self.library.number, self.plan, *read, output.data_ptr(), torch.get_num_threads())
        if failed:
            raise MemoryError(f"no memory for a convolution with an output of {list(self.output_shape)}")
        return output


# as many signatures as the operators remember
@lru_cache(4096)
def convolution(
    batch: int,
    size: Sequence[int],
    kernel_shape: Sequence[int],
    geometry: Geometry,
    mixed: int = 0,
    per_channel: bool = False,
    bias: str = "none",
    activation: str = "none",
    by_channel: bool = False,
    accumulate: bool = False,
    instructions: str | None = None,
) -> Convolution | None:
    """Prepare a convolution with one kernel per sample.

    Args:
        batch: Samples B.
        size: Height and width of the input, as a tuple.
        kernel_shape: ``(C_out, C_in/groups, kH, kW)``.
        geometry: Stride, padding, dilation, groups.
        mixed: Kernels K that are mixed; 0 if they are given.
        per_channel: Whether the coefficients are ``[B, K, C_out]``.
        bias: One of :data:`BIASES`.
        activation: One of :data:`ACTIVATIONS`, applied to the output.
        by_channel: Whether the factors of the weights are per input channel and tap, not per tap.
        accumulate: Whether the output is added to what is there, for callers of the library.
        instructions: One of :func:`instruction_sets`; by default the fastest, or what the environment says.

    Returns:
        The convolution; None if the map is too large for it, if it cannot accumulate, or the kernels are not available.
    """
    library = load(instructions)[0]
    if library is None:
        return None
    out_channels, depth, *kernel = kernel_shape
    problem = Problem(
        *(batch, depth * geometry.groups, out_channels, geometry.groups, mixed, *kernel),
        *(*size, *geometry.output_size(size, kernel), *geometry.stride, *geometry.padding, *geometry.dilation),
        *(per_channel, by_channel, BIASES.index(bias), ACTIVATIONS.index(activation), accumulate),
    )
    plan = library.functions.dyv_prepare(library.number, ctypes.byref(problem))
    return None if plan is None else Convolution(library, problem, plan)


def addresses(tensors: Sequence[Tensor | None]) -> tuple[list[int | None], list[Tensor]]:
    """Where the numbers of tensors are read, None for None; and the copies among them, which have no other owner."""
    found: list[int | None] = []
    copies: list[Tensor] = []
    for tensor in tensors:
        if tensor is None:
            found.append(None)
            continue
        address = tensor.data_ptr()
        # zeros that forward-mode differentiation makes are nowhere in memory
        if not address or not tensor.is_contiguous() or tensor.is_neg():
            copies.append(tensor.resolve_neg().clone(memory_format=torch.contiguous_format))
            address = copies[-1].data_ptr()
        found.append(address)
    return found, copies
