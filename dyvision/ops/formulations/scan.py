"""One operator per convolution, which an ONNX file computes by a ``Scan`` over the samples around a ``Conv``."""

from __future__ import annotations

import torch
from torch import Tensor

from dyvision.ops.formulations._formulation import Formulation
from dyvision.ops.formulations.grouped import grouped
from dyvision.ops.geometry import Geometry
from dyvision.ops.modes import is_exporting_to_onnx

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


def _geometry(stride: list[int], padding: list[int], dilation: list[int], groups: int) -> Geometry:
    return Geometry((stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), groups)


SCAN = Formulation(
    "scan",
    applies=lambda problem: is_exporting_to_onnx(),
    rank=lambda problem: -1,
    forward=scan,
    any_batch=True,
    adds_bias=True,
)
