"""One operator per convolution, which an ONNX file computes by a ``Scan`` over the samples.

``conv2d_by_sample`` is a ``Conv`` with the sample's kernel, ``mixture_by_sample`` one with each of the K kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyvision.ops.formulations._formulation import Formulation
from dyvision.ops.formulations.grouped import grouped
from dyvision.ops.formulations.mix_outputs import mix_outputs
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture, mix_kernels
from dyvision.ops.modes import is_exporting_to_onnx

#: numbers of a kernel from which the K kernels of a mixture are stored side by side, in parts
_LARGE = 2**18
#: numbers of one kernel in a part, at most
_PART = 2**16

# the types are spelt out: torch 2.6 does not read them off annotations such as list[int]
_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
_SCHEMA = f"(Tensor input, Tensor weight, Tensor? factors, Tensor? bias, {_GEOMETRY}) -> Tensor"
_SCHEMA_OF_MIXTURE = f"(Tensor input, Tensor kernels, Tensor coefficients, Tensor? bias, {_GEOMETRY}) -> Tensor"


@torch.library.custom_op("dyvision::conv2d_by_sample", mutates_args=(), schema=_SCHEMA)
def conv2d_by_sample(
    input: Tensor,
    weight: Tensor,
    factors: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """``input [B, C_in, H, W]``, ``weight [B, C_out, C_in/groups, kH, kW]``, ``bias [C_out]`` or ``[B, C_out]``.

    ``factors [B, F]`` scale each sample's kernel, read as rows of F numbers.
    """
    if factors is not None:
        weight = (weight.reshape(len(weight), -1, factors.shape[1]) * factors[:, None]).reshape(weight.shape)
    if bias is not None:
        bias = bias.expand(weight.shape[:2])
    return grouped(input, weight, _geometry(stride, padding, dilation, groups), bias)


@torch.library.custom_op("dyvision::mixture_by_sample", mutates_args=(), schema=_SCHEMA_OF_MIXTURE)
def mixture_by_sample(
    input: Tensor,
    kernels: Tensor,
    coefficients: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """``kernels [K, C_out, C_in/groups, kH, kW]`` and ``coefficients [B, K]``; the others as above."""
    if bias is not None:
        bias = bias.expand(input.shape[0], kernels.shape[1])
    return mix_outputs(input, Mixture(kernels, coefficients), _geometry(stride, padding, dilation, groups), bias)


@conv2d_by_sample.register_fake
@mixture_by_sample.register_fake
def _empty_output(
    input: Tensor,
    kernels: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    size = _geometry(stride, padding, dilation, groups).output_size(input.shape[2:], kernels.shape[3:])
    return input.new_empty(input.shape[0], kernels.shape[1], *size)


def scan(
    input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None, factors: Tensor | None = None
) -> Tensor:
    """Leave the convolution to the exporter, factors and bias included."""
    output: Tensor = conv2d_by_sample(input, weight, factors, bias, *_lists(geometry))
    return output


def scan_of_mixture(input: Tensor, mixture: Mixture, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Leave the mixing of small depthwise kernels to the exporter, too; mix others as it suits ONNX Runtime."""
    kernels, coefficients, taps = mixture
    if not kernels.dtype == coefficients.dtype == input.dtype:
        return scan(input, mixture.mix().to(input.dtype), geometry, bias)
    if _mixes_outputs(input, mixture, geometry):
        mixed_output: Tensor = mixture_by_sample(input, kernels, coefficients, bias, *_lists(geometry))
        return mixed_output
    if taps is not None and taps.ndim == 4:
        return scan(input, mixture.mix().to(input.dtype), geometry, bias, None)
    shape = kernels.shape[1:]
    # of several samples one product makes all kernels, and reads the bank once
    if _is_one(input.shape[0]) and coefficients.ndim == 2 and shape.numel() >= _LARGE:
        # as rows that are far apart, ONNX Runtime reads the K kernels up to twice as slowly
        parts = _count_parts(shape)
        bank = kernels.reshape(len(kernels), parts, -1).transpose(0, 1)
        mixed = torch.bmm(coefficients.expand(parts, 1, -1), bank).reshape(1, *shape)
    else:
        mixed = mix_kernels(kernels, coefficients)
    return scan(input, mixed, geometry, bias, None if taps is None else _rows_of_taps(taps.to(input.dtype), shape))


def _is_one(batch: int) -> bool:
    return isinstance(batch, int) and batch == 1


def _rows_of_taps(taps: Tensor, shape: torch.Size) -> Tensor:
    """The factors of an output channel, or of a depthwise kernel: ONNX Runtime broadcasts over a few numbers slowly."""
    repeats = shape[1] if shape[1] > 1 else shape[0]
    return taps.flatten(1)[:, None].expand(-1, repeats, -1).flatten(1)


def _mixes_outputs(input: Tensor, mixture: Mixture, geometry: Geometry) -> bool:
    """Whether K depthwise convolutions with constant kernels take less time than one with a computed kernel.

    In ONNX Runtime on x86 constant depthwise kernels are stored in blocks of channels and computed by code of their
    own; with a computed one, the input is unfolded channel by channel. Measured in nanoseconds per number of the output
    (3x3, float32), the first takes 0.6 for each kernel, with scaling or mixing; the second 1.7 (more than twice that
    with a stride, which unfolds number by number), and 250 per channel and sample.
    """
    kernels, coefficients, taps = mixture
    count, channels = kernels.shape[:2]
    depthwise = 1 < geometry.groups == channels == input.shape[1]
    size = input.shape[2:]
    if not depthwise or taps is not None or coefficients.ndim > 2 or input.dtype != torch.float32:
        return False
    if not all(isinstance(side, int) for side in size):
        return False
    height, width = geometry.output_size(size, kernels.shape[3:])
    unfolded = 1.7 if geometry.stride == (1, 1) else 3.6
    return 0.6 * count < unfolded + 250 / (height * width)


def _count_parts(shape: torch.Size) -> int:
    """The fewest equal parts of the output channels with at most ``_PART`` numbers each, or as many as there are."""
    fitting = (n for n in range(1, shape[0]) if shape[0] % n == 0 and shape.numel() // n <= _PART)
    return next(fitting, shape[0])


def _lists(geometry: Geometry) -> tuple[list[int], list[int], list[int], int]:
    stride, padding, dilation, groups = geometry
    return list(stride), list(padding), list(dilation), groups


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
