"""The batch folded into groups: one library convolution with B times as many."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.formulations._formulation import Convolve, Formulation, Gradients
from dyvision.ops.geometry import Geometry
from dyvision.ops.problem import Problem
from dyvision.ops.work import Work, convolutions, kernels, maps, sizes_of


def grouped(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Fold the batch into groups."""
    batch, out_channels = weight.shape[:2]
    folded = F.conv2d(
        input.reshape(1, -1, *input.shape[-2:]),
        weight.reshape(batch * out_channels, *weight.shape[2:]),
        None if bias is None else bias.reshape(-1),
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        batch * geometry.groups,
    )
    return folded.view(batch, out_channels, *folded.shape[-2:])


def grouped_backward(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Gradients:
    """Gradients of :func:`grouped`; ``mask`` says for which of input and weight."""
    batch = input.shape[0]
    grads = convolution_backward(
        grad.reshape(1, -1, *grad.shape[-2:]),
        input.reshape(1, -1, *input.shape[-2:]),
        weight.reshape(-1, *weight.shape[2:]),
        geometry,
        batch * geometry.groups,
        mask,
    )
    return _view(grads[0], input), _view(grads[1], weight)


def convolution_backward(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, groups: int, mask: list[bool]
) -> Gradients:
    """Gradients of the library's convolution in ``groups`` groups."""
    grads = torch.ops.aten.convolution_backward(
        grad,
        input,
        weight,
        None,
        list(geometry.stride),
        list(geometry.padding),
        list(geometry.dilation),
        False,
        [0, 0],
        groups,
        [*mask, False],
    )
    return grads[0] if mask[0] else None, grads[1] if mask[1] else None


def _view(grad: Tensor | None, like: Tensor) -> Tensor | None:
    return None if grad is None else grad.reshape(like.shape)


def _straight(batch: int, size: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry) -> Convolve:
    out_channels = kernel_shape[0]
    (stride, padding, dilation, groups), height_width = geometry, geometry.output_size(size, kernel_shape[2:])
    folded = (batch * out_channels, *kernel_shape[1:])
    maps = (batch, out_channels, *height_width)
    groups = groups * batch

    def fold(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if batch == 1:
            bias = None if bias is None else bias.view(-1)
            return F.conv2d(input, weight.reshape(folded), bias, stride, padding, dilation, groups)
        bias = None if bias is None else bias.expand(batch, -1).reshape(-1)
        input = input.reshape(1, -1, *size)
        return F.conv2d(input, weight.reshape(folded), bias, stride, padding, dilation, groups).view(maps)

    return fold


def _work(problem: Problem) -> Work:
    sizes = sizes_of(problem)
    return convolutions(sizes, 1, 1, sizes.batch * sizes.groups) | kernels(sizes) | maps(sizes)


GROUPED = Formulation(
    "grouped",
    applies=lambda problem: True,
    rank=lambda problem: 1,
    forward=grouped,
    backward=grouped_backward,
    work=_work,
    # the number of groups cannot depend on a dynamic batch
    any_batch=False,
    straight=_straight,
)
