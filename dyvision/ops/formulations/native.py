"""Kernels of our own, on CPUs (``dyvision/ops/native``): no mixed kernel is ever in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyvision.ops import native
from dyvision.ops.formulations._formulation import (
    Convolve,
    ConvolveMixture,
    Formulation,
    Gradients,
    GradientsOfMixture,
)
from dyvision.ops.formulations.grouped import GROUPED, grouped, grouped_backward
from dyvision.ops.formulations.matmul import matmul_backward
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture
from dyvision.ops.modes import is_traced, is_watched, is_wrapped
from dyvision.ops.plain import PLAIN
from dyvision.ops.problem import Problem
from dyvision.ops.work import VECTOR, Term, Work, calls, maps, moved, sizes_of

#: pixels of the output above which the library's matrix products are the faster backward pass of 1x1 kernels
_LARGE_PRODUCT = 128


def convolve(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Convolve with given kernels; ``bias [B, C_out]``."""
    found = native.convolution(
        weight.shape[0], input.shape[2:], weight.shape[1:], geometry, bias="none" if bias is None else "samples"
    )
    return grouped(input, weight, geometry, bias) if found is None else found(input, weight, None, bias)


def convolve_mixture(input: Tensor, mixture: Mixture, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Convolve with mixtures; ``bias [B, C_out]``."""
    kernels, coefficients, taps = mixture
    found = None
    if all(tensor is None or tensor.dtype == torch.float32 for tensor in mixture):
        found = _prepare(input, mixture, "none" if bias is None else "samples", geometry)
    if found is None:
        return convolve(input, mixture.mix().to(input.dtype), geometry, bias)
    return found(input, kernels, coefficients, bias, taps)


def _prepare(input: Tensor, mixture: Mixture, bias: str, geometry: Geometry) -> native.Convolution | None:
    kernels, coefficients, _ = mixture
    per_channel = coefficients.ndim == 3
    by_channel = mixture.taps is not None and mixture.taps.ndim == 4
    return native.convolution(
        *(input.shape[0], input.shape[2:], kernels.shape[1:], geometry, len(kernels), per_channel, bias),
        by_channel=by_channel,
    )


def gradients(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Gradients:
    """Gradients of :func:`convolve`; ``mask`` says for which of input and weight."""
    if _is_plain(grad, input, weight) and _is_depthwise(input, weight, geometry):
        found = native.gradients(grad, input, weight, None, None, geometry, [*mask, False, False])
        if found is not None:
            return found[:2]
    if weight.shape[3:] == (1, 1) and geometry.groups == 1:
        return matmul_backward(grad, input, weight, geometry, mask)
    return grouped_backward(grad, input, weight, geometry, mask)


def gradients_of_mixture(
    grad: Tensor, input: Tensor, mixture: Mixture, geometry: Geometry, mask: list[bool]
) -> GradientsOfMixture:
    """Gradients of :func:`convolve_mixture`; ``mask`` says for which of input, kernels, coefficients and taps."""
    kernels, coefficients, taps = mixture
    # kernels of one channel are few numbers, and products of large matrices are the library's
    large = kernels.shape[3:] == (1, 1) and geometry.groups == 1 and grad.shape[2] * grad.shape[3] > _LARGE_PRODUCT
    if kernels.shape[2] > 1 and not large and _is_plain(grad, input, *(t for t in mixture if t is not None)):
        found = native.gradients(grad, input, kernels, coefficients, taps, geometry, mask)
        if found is not None:
            return found
    weight = mixture.mix().to(input.dtype)
    grad_input, grad_weight = gradients(grad, input, weight, geometry, [mask[0], any(mask[1:])])
    return grad_input, *((None,) * 3 if grad_weight is None else mixture.backward(grad_weight, mask[1:]))


def _is_depthwise(input: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    return geometry.groups == input.shape[1] == weight.shape[1] > 1


def _is_plain(*tensors: Tensor) -> bool:
    """Whether memory may be read: a backward pass can run in other circumstances than its forward pass."""
    ordinary = all(type(tensor) in PLAIN and tensor.dtype == torch.float32 and tensor.is_cpu for tensor in tensors)
    return ordinary and not is_traced() and not is_watched() and not any(is_wrapped(tensor) for tensor in tensors)


def _straight(batch: int, size: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry) -> Convolve | None:
    size, kernel_shape = tuple(size), tuple(kernel_shape)
    plain = native.convolution(batch, size, kernel_shape, geometry)
    shifted = native.convolution(batch, size, kernel_shape, geometry, bias="samples")
    if plain is None or shifted is None:
        return None

    def run(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            return plain(input, weight)
        return shifted(input, weight, None, bias.expand(batch, -1))

    return run


def _straight_of_mixture(
    input: Tensor, mixture: Mixture, bias: Tensor | None, geometry: Geometry
) -> ConvolveMixture | None:
    return _prepare(input, mixture, native.kind_of_bias(None if bias is None else bias.shape), geometry)


def _work(problem: Problem) -> Work:
    """Pixels are computed by vectors, output channels by fours; a bank is read once, and mixed for each sample."""
    s = sizes_of(problem)
    parts, width = s.batch * s.groups, s.pixels // s.rows
    rows = parts * -(-s.outputs // 4) * 4 * s.inputs * s.taps
    bank = s.groups * s.outputs * s.inputs * s.taps * s.banks
    mixed = s.batch * bank if problem.mixed else bank
    return (
        calls(1)
        | {
            "multiply-adds": Term("native", rows * -(-s.pixels // VECTOR) * VECTOR),
            "ends of rows": Term("native", rows * s.rows * (-(-width // VECTOR) * VECTOR - width)),
            "few outputs": Term("native", parts * s.inputs * s.taps * s.pixels * 4),
            "mixing": Term("native", mixed),
            "groups": Term("call", parts / 100),
        }
        | moved("bank", bank)
        | maps(s)
    )


def _leads(problem: Problem) -> bool:
    """Of 189 random shapes with one image or with groups it was within 1.10 of the fastest in 186 (AMD, AVX-512)."""
    if problem.training:
        return _leads_in_training(problem)
    return problem.batch == 1 or problem.kind == "in groups"


def _leads_in_training(problem: Problem) -> bool:
    """The same for both passes, at batch 16."""
    if problem.kind == "depthwise":
        return problem.in_channels == problem.out_channels
    # of large maps the library's passes are as fast, and kernels that are given are written by both
    return problem.mixed > 0 and (problem.kind == "pointwise" or problem.output_pixels <= 1024)


def _applies(problem: Problem) -> bool:
    possible = problem.plain and problem.device == "cpu" and problem.dtype == torch.float32
    return possible and not problem.channels_last and native.available()


NATIVE = Formulation(
    "native",
    applies=_applies,
    rank=lambda problem: -2,
    forward=convolve,
    forward_of_mixture=convolve_mixture,
    backward=gradients,
    backward_of_mixture=gradients_of_mixture,
    stands_in=GROUPED,
    work=_work,
    leads=_leads,
    # it reads addresses, which nothing that records operations has
    any_batch=False,
    straight=_straight,
    straight_of_mixture=_straight_of_mixture,
)
