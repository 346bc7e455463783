"""One operator per convolution, which an ONNX file computes by a ``Scan`` over the samples around a ``Conv``."""

from __future__ import annotations

import torch
from torch import Tensor

from dyvision.ops.formulations._formulation import Formulation
from dyvision.ops.formulations.grouped import grouped
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture
from dyvision.ops.modes import is_exporting_to_onnx

#: numbers of a kernel from which the K kernels of a mixture are stored side by side, in parts
_LARGE = 2**18
#: numbers of one kernel in a part, at most
_PART = 2**16

# the types are spelt out: torch 2.6 does not read them off annotations such as list[int]
_SCHEMA = (
    "(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups)"
    " -> Tensor"
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


def scan(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Leave the convolution to the exporter, bias included."""
    stride, padding, dilation, groups = geometry
    output: Tensor = conv2d_by_sample(input, weight, bias, list(stride), list(padding), list(dilation), groups)
    return output


def scan_of_mixture(input: Tensor, mixture: Mixture, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Mix a large bank, for one sample, in the order in which it is stored."""
    kernels, coefficients, taps = mixture
    shape = kernels.shape[1:]
    # of several samples one product makes all kernels, and reads the bank once
    alone = isinstance(input.shape[0], int) and input.shape[0] == 1 and coefficients.ndim == 2
    same_type = kernels.dtype == coefficients.dtype == input.dtype
    if not alone or not same_type or shape.numel() < _LARGE:
        return scan(input, mixture.mix().to(input.dtype), geometry, bias)
    # as rows that are far apart, ONNX Runtime reads the K kernels up to twice as slowly
    parts = _count_parts(shape)
    bank = kernels.reshape(len(kernels), parts, -1).transpose(0, 1)
    mixed = torch.bmm(coefficients.expand(parts, 1, -1), bank)
    if taps is not None:
        factors = taps.to(mixed.dtype).flatten(1).expand(shape[1], -1).flatten()
        mixed = mixed.reshape(shape[0], -1) * factors
    return scan(input, mixed.reshape(1, *shape), geometry, bias)


def _count_parts(shape: torch.Size) -> int:
    """The fewest equal parts of the output channels with at most ``_PART`` numbers each, or as many as there are."""
    fitting = (n for n in range(1, shape[0]) if shape[0] % n == 0 and shape.numel() // n <= _PART)
    return next(fitting, shape[0])


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
