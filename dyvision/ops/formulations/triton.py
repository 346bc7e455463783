"""Kernels of our own, on CUDA devices (``dyvision/ops/triton``)."""

from __future__ import annotations

from torch import Tensor

from dyvision.ops import triton
from dyvision.ops.formulations._formulation import Formulation
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture
from dyvision.ops.problem import Problem


def convolve(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """The kernel for the case: depthwise with an output per channel, or any other."""
    if geometry.groups == input.shape[1] == weight.shape[1]:
        return _shift(triton.depthwise(input, weight[:, :, 0], geometry), bias)
    return _shift(triton.dense(input, weight, geometry), bias)


def convolve_mixture(input: Tensor, mixture: Mixture, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Mixing and product in one kernel where it is 1x1; elsewhere the kernels are mixed before."""
    if geometry.is_pointwise and mixture.taps is None and mixture.kernels.shape[3:] == (1, 1):
        return _shift(triton.mixture_pointwise(input, mixture.kernels, mixture.coefficients), bias)
    return convolve(input, mixture.mix(), geometry, bias)


def _shift(output: Tensor, bias: Tensor | None) -> Tensor:
    return output if bias is None else output.add_(bias[:, :, None, None])


def _applies(problem: Problem) -> bool:
    return problem.dtype in triton.DTYPES and triton.available(problem.device)


TRITON = Formulation(
    "triton",
    applies=_applies,
    rank=lambda problem: 7,
    forward=convolve,
    forward_of_mixture=convolve_mixture,
    any_batch=True,
)
