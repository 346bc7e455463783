"""One operator per convolution, which an ONNX file computes by a ``Scan`` over the samples around a ``Conv``.

A large bank is mixed by the same operator, for one sample at a time: the kernels of a whole batch are never in memory at
once, and those of a sample are still in the cache when they are used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyvision.ops.formulations._formulation import Formulation
from dyvision.ops.formulations.grouped import grouped
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture
from dyvision.ops.modes import is_exporting_to_onnx

#: numbers of a kernel from which a sample's are mixed where they are used
_LARGE = 2**18
#: numbers that are mixed at a time: of all K kernels, they lie side by side
_PART = 2**16

# the types are spelt out: torch 2.6 does not read them off annotations such as list[int]
_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups) -> Tensor"
_SCHEMA = f"(Tensor input, Tensor weight, Tensor? bias, {_GEOMETRY}"
_MIXTURE_SCHEMA = (
    f"(Tensor input, Tensor bank, Tensor coefficients, Tensor? factors, Tensor? bias, SymInt[] kernel, {_GEOMETRY}"
)


@torch.library.custom_op("dyvision::conv2d_by_sample", mutates_args=(), schema=_SCHEMA)
def conv2d_by_sample(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """``input [B, C_in, H, W]``, ``weight [B, C_out, C_in/groups, kH, kW]``, ``bias [C_out]`` or ``[B, C_out]``."""
    if bias is not None:
        bias = bias.expand(weight.shape[:2])
    return grouped(input, weight, _geometry(stride, padding, dilation, groups), bias)


@conv2d_by_sample.register_fake
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    size = _geometry(stride, padding, dilation, groups).output_size(input.shape[2:], weight.shape[3:])
    return input.new_empty(input.shape[0], weight.shape[1], *size)


@torch.library.custom_op("dyvision::mixture_by_sample", mutates_args=(), schema=_MIXTURE_SCHEMA)
def mixture_by_sample(
    input: Tensor,
    bank: Tensor,
    coefficients: Tensor,
    factors: Tensor | None,
    bias: Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """As :func:`conv2d_by_sample`, with kernels of shape ``kernel`` that are mixed first.

    ``bank [P, K, C_out/P * F]`` are P parts of K kernels with F numbers per output channel, ``coefficients [B, K]``;
    ``factors [B, F]`` scale what is mixed.
    """
    weight = torch.einsum("bk,pkf->bpf", coefficients, bank)
    if factors is not None:
        weight = weight.reshape(input.shape[0], kernel[0], -1) * factors[:, None]
    return conv2d_by_sample(input, weight.reshape(input.shape[0], *kernel), bias, stride, padding, dilation, groups)


@mixture_by_sample.register_fake
def _(
    input: Tensor,
    bank: Tensor,
    coefficients: Tensor,
    factors: Tensor | None,
    bias: Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    size = _geometry(stride, padding, dilation, groups).output_size(input.shape[2:], kernel[2:])
    return input.new_empty(input.shape[0], kernel[0], *size)


def scan(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Leave the convolution to the exporter, bias included."""
    output: Tensor = conv2d_by_sample(input, weight, bias, *_lists(geometry), geometry.groups)
    return output


def scan_of_mixture(input: Tensor, mixture: Mixture, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Leave the mixing of a large bank to the exporter as well."""
    kernels, coefficients, taps = mixture
    count, shape = kernels.shape[0], kernels.shape[1:]
    same_type = kernels.dtype == coefficients.dtype == input.dtype
    if coefficients.ndim > 2 or shape.numel() < _LARGE or not same_type:
        return scan(input, mixture.mix().to(input.dtype), geometry, bias)
    bank = kernels.reshape(count, _parts(shape), -1).transpose(0, 1)
    factors = None
    if taps is not None:
        factors = taps.to(input.dtype).flatten(1)[:, None].expand(-1, shape[1], -1).flatten(1)
    output: Tensor = mixture_by_sample(
        input, bank, coefficients, factors, bias, list(shape), *_lists(geometry), geometry.groups
    )
    return output


def _parts(shape: torch.Size) -> int:
    """The fewest parts of the output channels with at most ``_PART`` numbers each, if there are any."""
    return next(
        n for n in range(1, shape[0] + 1) if shape[0] % n == 0 and (shape.numel() // n <= _PART or n == shape[0])
    )


def _lists(geometry: Geometry) -> tuple[list[int], list[int], list[int]]:
    return list(geometry.stride), list(geometry.padding), list(geometry.dilation)


def _geometry(stride: list[int], padding: list[int], dilation: list[int], groups: int) -> Geometry:
    return Geometry((stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), groups)


SCAN = Formulation(
    "scan",
    applies=lambda problem: is_exporting_to_onnx(),
    rank=lambda problem: -1,
    forward=scan,
    forward_of_mixture=scan_of_mixture,
    any_batch=True,
    adds_bias=True,
)
