"""One library convolution per sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.formulations._formulation import Formulation, Gradients
from dyvision.ops.formulations.grouped import convolution_backward, grouped
from dyvision.ops.geometry import Geometry
from dyvision.ops.problem import Problem
from dyvision.ops.work import Work, convolutions, kernels, maps, sizes_of


def loop(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Convolve sample by sample."""
    if len(input) == 1:
        return grouped(input, weight, geometry, bias)  # without a copy
    biases = [None] * len(input) if bias is None else bias.unbind()
    outputs = [
        F.conv2d(sample[None], kernel, shift, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        for sample, kernel, shift in zip(input.unbind(), weight.unbind(), biases, strict=True)
    ]
    return torch.cat(outputs)


def loop_backward(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Gradients:
    """Gradients of :func:`loop`."""
    rows = [
        convolution_backward(g[None], x[None], w, geometry, geometry.groups, mask)
        for g, x, w in zip(grad.unbind(), input.unbind(), weight.unbind(), strict=True)
    ]
    return (
        torch.cat([row[0] for row in rows]) if mask[0] else None,  # type: ignore[misc]
        torch.stack([row[1] for row in rows]) if mask[1] else None,  # type: ignore[misc]
    )


def _work(problem: Problem) -> Work:
    sizes = sizes_of(problem)
    return convolutions(sizes, sizes.batch, 1, sizes.groups) | kernels(sizes) | maps(sizes)


LOOP = Formulation(
    "loop",
    applies=lambda problem: problem.batch > 1,  # of one sample it is "grouped"
    rank=lambda problem: 5,
    forward=loop,
    backward=loop_backward,
    work=_work,
    # the length of a loop cannot depend on a dynamic batch
    any_batch=False,
)
