"""Linear layers on the means of a map's channels, in one call: what most branches of dynamic layers begin with."""

from __future__ import annotations

import torch
from torch import Tensor

from dyvision.ops.native._convolution import addresses
from dyvision.ops.native.library import load


def perceptron(
    input: Tensor,
    first: tuple[Tensor, Tensor | None] | None,
    second: tuple[Tensor, Tensor | None],
    sigmoid: bool = False,
    instructions: str | None = None,
) -> Tensor | None:
    """Compute ``second(relu(first(mean(input))))`` or ``second(mean(input))`` for float32 tensors in memory.

    Args:
        input: ``[B, C, H, W]``.
        first: Weight ``[A, C]`` and bias ``[A]`` or None; None without such a layer.
        second: Weight ``[N, A]`` or ``[N, C]`` and bias ``[N]`` or None.
        sigmoid: Whether it is applied to the result.
        instructions: One of :func:`instruction_sets`; by default the fastest, or what the environment says.

    Returns:
        ``[B, N]``; None if the kernels are not available.

    Raises:
        MemoryError: If there is no room for what it works with.
    """
    library = load(instructions)[0]
    if library is None:
        return None
    batch, channels = input.shape[:2]
    outputs, hidden = second[0].shape[0], 0 if first is None else first[0].shape[0]
    output = input.new_empty(batch, outputs)
    read, _kept = addresses((input, *(first or (None, None)), *second))
    failed = library.functions.dyv_perceive(
        library.number,
        *(batch, channels, input.shape[2] * input.shape[3], hidden, outputs, sigmoid),
        *read,
        output.data_ptr(),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for the means of {batch} x {channels} channels")
    return output
