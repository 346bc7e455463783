"""The output of a convolution of no samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dyvision.ops.autocast import convolution_dtype
from dyvision.ops.geometry import Edges, Geometry


def empty_output(
    input: Tensor,
    out_channels: int,
    kernel: Sequence[int],
    edges: Edges | None,
    geometry: Geometry,
    tensors: Iterable[Tensor | None],
) -> Tensor:
    """Return ``[0, C_out, H', W']`` in the type of other outputs.

    Args:
        input: ``[0, C_in, H, W]``.
        out_channels: C_out.
        kernel: Height and width of the kernel.
        edges: Zeros that the input needs first.
        geometry: What remains.
        tensors: Those on which other outputs depend: each gets a gradient of zeros, as from a library convolution.
    """
    left, right, top, bottom = edges or (0, 0, 0, 0)
    size = geometry.output_size((input.shape[2] + top + bottom, input.shape[3] + left + right), kernel)
    output = input.new_zeros((0, out_channels, *size), dtype=convolution_dtype(input))
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                output = output + 0 * tensor.sum().to(output.dtype)
    return output
