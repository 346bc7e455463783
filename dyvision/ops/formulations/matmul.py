"""A matrix product per sample and group: of the input for 1x1 kernels, of the unfolded input for larger ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dyvision.ops.formulations._formulation import Convolve, Formulation, Gradients
from dyvision.ops.formulations.columns import columns_of, fold_columns
from dyvision.ops.geometry import Geometry, is_channels_last
from dyvision.ops.problem import Problem
from dyvision.ops.work import Work, calls, kernels, maps, products, sizes_of, unfolded


def matmul(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """A matrix product per sample and group, ``[C_out, C_in kH kW] x [C_in kH kW, H'W']``, of the unfolded input."""
    batch = input.shape[0]
    size: tuple[int, ...]
    if weight.shape[3] == weight.shape[4] == 1 and geometry.is_pointwise:
        size = input.shape[2:]
        if is_channels_last(input):
            # pixels, not channels, are the rows: nothing is copied on the way to channels first and back
            output = torch.bmm(input.permute(0, 2, 3, 1).flatten(1, 2), weight.flatten(2).transpose(1, 2))
            output = output if bias is None else output.add_(bias.unsqueeze(1))
            return output.view(batch, *size, -1).permute(0, 3, 1, 2)
        output = torch.bmm(weight.flatten(2), input.flatten(2))
    else:
        size = geometry.output_size(input.shape[-2:], weight.shape[-2:])
        output = torch.bmm(_rows(weight, geometry), columns_of(input, weight.shape[-2:], geometry))
        output = output.view(batch, weight.shape[1], -1)
    # in place: a second map of this size costs as much as the product
    output = output if bias is None else output.add_(bias.unsqueeze(2))
    return output.view(batch, -1, *size)


def matmul_backward(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Gradients:
    """Gradients of :func:`matmul`, two matrix products per sample."""
    rows = _rows(weight, geometry)
    output = grad.reshape(rows.shape[0], rows.shape[1], -1)
    grad_input = grad_weight = None
    if mask[0]:
        grad_columns = torch.bmm(rows.transpose(1, 2), output)
        grad_input = fold_columns(grad_columns, input.shape, weight.shape[-2:], geometry)
    if mask[1]:
        columns = columns_of(input, weight.shape[-2:], geometry)
        grad_weight = torch.bmm(output, columns.transpose(1, 2)).view(weight.shape)
    return grad_input, grad_weight


def _rows(weight: Tensor, geometry: Geometry) -> Tensor:
    """Kernels as matrices ``[B * groups, C_out/groups, C_in/groups * kH * kW]``."""
    batch, out_channels = weight.shape[:2]
    return weight.reshape(batch * geometry.groups, out_channels // geometry.groups, math.prod(weight.shape[2:]))


def _straight(batch: int, size: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry) -> Convolve | None:
    if not geometry.is_pointwise:
        return None
    out_channels = kernel_shape[0]
    matrices, maps = (batch, out_channels, kernel_shape[1]), (batch, out_channels, *size)

    def multiply(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output = torch.bmm(weight.reshape(matrices), input.flatten(2))
        return (output if bias is None else output.add_(bias.unsqueeze(-1))).view(maps)

    return multiply


def _work(problem: Problem) -> Work:
    sizes = sizes_of(problem)
    count = sizes.batch * sizes.groups
    work = products(sizes, count) | kernels(sizes) | maps(sizes)
    # a copy of a shifted input per tap
    return work | (calls(1) if sizes.taps == 1 else calls(1 + sizes.taps) | unfolded(sizes, count))


def _is_1x1(problem: Problem) -> bool:
    return problem.kernel == (1, 1)


MATMUL = Formulation(
    "matmul",
    applies=_is_1x1,
    # products of small matrices, one per group, are slower than the library's convolution
    rank=lambda problem: 0 if problem.geometry.groups == 1 else 2,
    forward=matmul,
    backward=matmul_backward,
    work=_work,
    any_batch=True,
    row_by_row=True,
    straight=_straight,
)
UNFOLD = Formulation(
    "unfold",
    applies=lambda problem: not _is_1x1(problem),
    rank=lambda problem: 4,
    forward=matmul,
    backward=matmul_backward,
    work=_work,
    any_batch=True,
    row_by_row=True,
)
