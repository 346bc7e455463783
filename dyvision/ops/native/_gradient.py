"""The backward pass of a convolution, of whose kernels none is ever in memory."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.native._convolution import addresses
from dyvision.ops.native.library import Problem, load

#: of input, kernels, coefficients and factors
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def gradients(
    grad: Tensor,
    input: Tensor,
    kernels: Tensor,
    coefficients: Tensor | None,
    factors: Tensor | None,
    geometry: Geometry,
    wanted: list[bool],
    instructions: str | None = None,
) -> Gradients | None:
    """Differentiate a convolution of float32 tensors in memory.

    Args:
        grad: ``[B, C_out, H', W']``, the gradient of the output.
        input: ``[B, C_in, H, W]``.
        kernels: ``[K, C_out, C_in/groups, kH, kW]`` to be mixed, or ``[B, C_out, C_in/groups, kH, kW]``.
        coefficients: ``[B, K]`` or ``[B, K, C_out]``; None if the kernels are given.
        factors: ``[B, kH, kW]`` or ``[B, C_in/groups, kH, kW]``, of the weights of each sample's mixture, or None.
        geometry: Stride, padding, dilation, groups.
        wanted: For which of input, kernels, coefficients and factors.
        instructions: One of :func:`instruction_sets`; by default the fastest, or what the environment says.

    Returns:
        The gradients that are wanted, in tensors of the same shapes; None if the kernels are not available.

    Raises:
        MemoryError: If there is no room for what it works with.
    """
    library = load(instructions)[0]
    if library is None:
        return None
    (batch, channels, *size), (_, out_channels, _, *kernel) = input.shape, kernels.shape
    mixed = 0 if coefficients is None else len(kernels)
    per_channel, by_channel = (
        coefficients is not None and coefficients.ndim == 3,
        factors is not None and factors.ndim == 4,
    )
    problem = Problem(
        *(batch, channels, out_channels, geometry.groups, mixed, *kernel, *size, *grad.shape[2:]),
        *(*geometry.stride, *geometry.padding, *geometry.dilation, per_channel, by_channel, 0, 0, 0),
    )
    read, _kept = addresses((grad, input, kernels, coefficients, factors))
    found = [
        tensor.new_empty(tensor.shape) if want and tensor is not None else None
        for want, tensor in zip(wanted, (input, kernels, coefficients, factors), strict=True)
    ]
    failed = library.functions.dyv_differentiate(
        library.number,
        ctypes.byref(problem),
        *read,
        *[None if tensor is None else tensor.data_ptr() for tensor in found],
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for the gradients of a convolution with an output of {list(grad.shape)}")
    return found[0], found[1], found[2], found[3]
