"""Depthwise kernels tap by tap: a weighted sum of shifted inputs."""

from __future__ import annotations

from torch import Tensor

from dyvision.ops.formulations._formulation import Formulation
from dyvision.ops.formulations.columns import pad_zeros, shifts
from dyvision.ops.formulations.grouped import grouped_backward
from dyvision.ops.geometry import Geometry
from dyvision.ops.problem import Problem
from dyvision.ops.work import Work, calls, kernels, maps, moved, sizes_of


def shifted(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Sum over the taps, with any number of outputs per channel."""
    batch, out_channels = weight.shape[:2]
    per_channel = out_channels // input.shape[1]
    taps = weight.reshape(batch, input.shape[1], per_channel, -1)
    total = None if bias is None else bias.view(batch, input.shape[1], per_channel, 1, 1)
    for index, view in shifts(pad_zeros(input, geometry), weight.shape[-2:], geometry):
        term = view[:, :, None] * taps[:, :, :, index, None, None]
        total = term if total is None else total + term
    assert total is not None
    return total.flatten(1, 2)


def _work(problem: Problem) -> Work:
    sizes = sizes_of(problem)
    terms = sizes.taps * sizes.batch * sizes.groups * sizes.outputs * sizes.pixels
    return calls(2 * sizes.taps) | moved("terms", terms) | kernels(sizes) | maps(sizes)


SHIFTED = Formulation(
    "shifted",
    applies=lambda problem: problem.is_depthwise(),
    rank=lambda problem: 3,  # unlike "unfold" it writes no columns
    forward=shifted,
    # a library convolution has a gradient per tap, too
    backward=grouped_backward,
    work=_work,
    whole=True,
    any_batch=True,
)
