"""Mixtures whose kernels exist only in parts: as many at a time as stay in a processor's cache.

The kernels of a batch are larger than anything else in the deep layers of a network (ResNet-18's last ones: 9 MB per
sample). Written to and read from memory they cost more than the convolution. So matrix products go through a few output
channels at a time, whose kernels are mixed for all samples; library convolutions through a few samples at a time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dyvision.ops.formulations import TABLE, GradientsOfMixture
from dyvision.ops.formulations.columns import columns_of, fold_columns
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture

#: bytes of mixed kernels at a time, on a CPU; caches of other devices are too small for it to pay
TILE_BYTES = 16 * 2**20


class Tile(NamedTuple):
    """Which part of the kernels is mixed at a time.

    Attributes:
        by_rows: Whether it is some output channels of all samples, or all of some samples.
        step: How many of these.
    """

    by_rows: bool
    step: int


def choose_tile(name: str, dtype: torch.dtype, batch: int, mixture: Mixture, geometry: Geometry) -> Tile | None:
    """Decide how a formulation goes through a mixture; shapes, types and the device say it, and no numbers.

    Args:
        name: The formulation.
        dtype: Type of the convolution.
        batch: Samples.
        mixture: What the kernels are mixed from.
        geometry: Stride, padding, dilation, groups.

    Returns:
        The part, or None if all kernels are mixed at once.
    """
    if mixture.kernels.device.type != "cpu" or TABLE[name].forward_of_mixture is not None:
        return None
    # rows: where kernels are matrices and mixed as they are
    plain = mixture.coefficients.ndim == 2 and {tensor.dtype for tensor in mixture if tensor is not None} == {dtype}
    by_tap = mixture.taps is None or mixture.taps.ndim == 3
    by_rows = plain and by_tap and TABLE[name].row_by_row and geometry.groups == 1
    out_channels = mixture.kernels.shape[1]
    row = math.prod(mixture.kernels.shape[2:]) * mixture.kernels.element_size()
    whole, one = (out_channels, batch * row) if by_rows else (batch, out_channels * row)
    step = max(TILE_BYTES // one, 8 if by_rows else 1)
    return None if step >= whole else Tile(by_rows, step)


def convolve_mixture(
    input: Tensor, mixture: Mixture, geometry: Geometry, name: str, tile: Tile | None, bias: Tensor | None = None
) -> Tensor:
    """Convolve each sample with its mixture by the formulation ``name``; nothing is kept for a backward pass."""
    row = TABLE[name]
    if tile is None:
        return row.convolve_mixture(input, mixture, geometry, bias)
    size = geometry.output_size(input.shape[-2:], mixture.kernels.shape[-2:])
    batch, out_channels = input.shape[0], mixture.kernels.shape[1]
    if tile.by_rows:
        columns = columns_of(input, mixture.kernels.shape[-2:], geometry)
        output = input.new_empty(batch, out_channels, math.prod(size))
        buffer = _Buffer(mixture, tile.step)
        for start in range(0, out_channels, tile.step):
            part = slice(start, start + tile.step)
            output[:, part] = torch.bmm(buffer.mix(mixture.rows(part)), columns)
        output = output if bias is None else output.add_(bias[:, :, None])
        return output.view(batch, out_channels, *size)
    output = input.new_empty(batch, out_channels, *size)
    for start in range(0, batch, tile.step):
        part = slice(start, start + tile.step)
        shift = None if bias is None else bias[part]
        output[part] = row.convolve_mixture(input[part], mixture.samples(part), geometry, shift)
    return output


def convolve_mixture_backward(
    grad: Tensor,
    input: Tensor,
    mixture: Mixture,
    geometry: Geometry,
    name: str,
    tile: Tile | None,
    mask: list[bool],
) -> GradientsOfMixture:
    """Gradients for input, kernels, coefficients and taps; ``mask`` says for which."""
    if tile is not None and tile.by_rows:
        return _rows_backward(grad, input, mixture, geometry, tile.step, mask)
    gradients, wanted = TABLE[name].gradients, [mask[0], any(mask[1:])]
    backward_of_mixture = TABLE[name].backward_of_mixture
    if tile is None and backward_of_mixture is not None:
        return backward_of_mixture(grad, input, mixture, geometry, mask)
    if tile is None:
        weight = mixture.mix().to(input.dtype)
        grad_input, grad_weight = gradients(grad, input, weight, geometry, wanted)
        return grad_input, *((None,) * 3 if grad_weight is None else mixture.backward(grad_weight, mask[1:]))
    grad_input = torch.empty_like(input) if mask[0] else None
    kernels = torch.zeros_like(mixture.kernels) if mask[1] else None
    coefficients, taps = [], []
    for start in range(0, input.shape[0], tile.step):
        part = slice(start, start + tile.step)
        some = mixture.samples(part)
        weight = some.mix().to(input.dtype)
        grads = gradients(grad[part], input[part], weight, geometry, wanted)
        if grad_input is not None and grads[0] is not None:
            grad_input[part] = grads[0]
        if grads[1] is not None:
            found = some.backward(grads[1], mask[1:])
            if kernels is not None and found[0] is not None:
                kernels += found[0]
            coefficients.append(found[1])
            taps.append(found[2])
    return grad_input, kernels, _join(coefficients), _join(taps)


def _join(parts: list[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


def _rows_backward(
    grad: Tensor, input: Tensor, mixture: Mixture, geometry: Geometry, step: int, mask: list[bool]
) -> GradientsOfMixture:
    kernel = mixture.kernels.shape[-2:]
    columns = columns_of(input, kernel, geometry)
    flat = grad.reshape(grad.shape[0], grad.shape[1], -1)
    grad_columns = torch.zeros_like(columns) if mask[0] else None
    grad_kernels = torch.empty_like(mixture.kernels) if mask[1] else None
    grad_coefficients = torch.zeros_like(mixture.coefficients) if mask[2] else None
    grad_taps = torch.zeros_like(mixture.taps) if mask[3] and mixture.taps is not None else None
    buffer, grad_buffer = _Buffer(mixture, step), _Buffer(mixture, step)
    for start in range(0, flat.shape[1], step):
        part = slice(start, start + step)
        some = mixture.rows(part)
        if grad_columns is not None:
            grad_columns.baddbmm_(buffer.mix(some).transpose(1, 2), flat[:, part])
        if not any(mask[1:]):
            continue
        rows = torch.bmm(flat[:, part], columns.transpose(1, 2), out=grad_buffer.rows(some.kernels.shape[1]))
        if some.taps is not None:
            by_tap = rows.unflatten(2, (-1, math.prod(kernel)))
            if grad_taps is not None:
                mixed = buffer.mix(some._replace(taps=None)).view_as(by_tap)
                grad_taps += (by_tap * mixed).sum((1, 2)).view_as(grad_taps)
            by_tap.mul_(some.taps.flatten(1)[:, None, None])
        numbers = rows.flatten(1)
        if grad_kernels is not None:
            written = grad_kernels.flatten(1)[:, start * buffer.numbers :][:, : numbers.shape[1]]
            torch.mm(mixture.coefficients.t(), numbers, out=written)
        if grad_coefficients is not None:
            grad_coefficients += numbers @ some.kernels.flatten(1).t()
    grad_input = None if grad_columns is None else fold_columns(grad_columns, input.shape, kernel, geometry)
    return grad_input, grad_kernels, grad_coefficients, grad_taps


class _Buffer:
    """Room for the mixed kernels of some output channels: fresh memory for each would cost more than the mixing."""

    def __init__(self, mixture: Mixture, step: int) -> None:
        kernels, batch = mixture.kernels, mixture.coefficients.shape[0]
        self.batch, self.numbers = batch, math.prod(kernels.shape[2:])
        self.memory = kernels.new_empty(batch * step * self.numbers)

    def rows(self, count: int) -> Tensor:
        """``[B, count, C_in * kH * kW]``."""
        return self.memory[: self.batch * count * self.numbers].view(self.batch, count, self.numbers)

    def mix(self, mixture: Mixture) -> Tensor:
        """The kernels of a mixture as matrices ``[B, rows, C_in * kH * kW]``."""
        rows = self.rows(mixture.kernels.shape[1])
        torch.mm(mixture.coefficients, mixture.kernels.flatten(1), out=rows.flatten(1))
        if mixture.taps is not None:
            taps = mixture.taps.flatten(1)
            rows.unflatten(2, (-1, taps.shape[1])).mul_(taps[:, None, None])
        return rows
