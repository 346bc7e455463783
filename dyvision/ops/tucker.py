"""Tucker-2: kernels whose channels are factorised, ``W = U_out G U_in``, with a small core G for each kernel.

Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications", ICLR 2016,
arXiv 1511.06530, section 3.1. Of a grouped convolution each group has factors of its own:

* core ``[..., groups * R_out, R_in, kH, kW]``, the kernel of a convolution in as many groups;
* input factor ``[groups * R_in, C_in/groups]`` and output factor ``[C_out, R_out]``: 1x1 convolutions around that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.autocast import without_autocast
from dyvision.ops.geometry import Size


class Ranks(NamedTuple):
    """Ranks of a factorisation, per group: of the output channels, and of the input channels."""

    outputs: int
    inputs: int

    @classmethod
    def largest(cls, kernel_shape: tuple[int, int, int, int], groups: int) -> Ranks:
        """Those of any kernel of a shape ``(C_out, C_in/groups, kH, kW)``: larger ones are of no use to it."""
        outputs, inputs, height, width = kernel_shape
        outputs, taps = outputs // groups, height * width
        return cls(min(outputs, inputs * taps), min(inputs, outputs * taps))


class Factors(NamedTuple):
    """A factorised kernel: core, input factor and output factor."""

    core: Tensor
    inputs: Tensor
    outputs: Tensor


def apply_factor(x: Tensor, factor: Tensor, groups: int, bias: Tensor | None = None, stride: Size = 1) -> Tensor:
    """Map the channels of ``x [B, C, H, W]`` by a factor ``[C', C/groups]`` and add ``bias [C']``."""
    return F.conv2d(x, factor[:, :, None, None], bias, stride, groups=groups)


def expand_outputs(core: Tensor, factor: Tensor, groups: int) -> Tensor:
    """Multiply cores ``[N, groups * R_out, C, kH, kW]`` by the output factor: ``[N, C_out, C, kH, kW]``."""
    return _expand("gor,ngrit->ngoit", factor, core, groups)


def expand(core: Tensor, inputs: Tensor, outputs: Tensor, groups: int) -> Tensor:
    """Multiply cores ``[N, groups * R_out, R_in, kH, kW]`` by both factors: ``[N, C_out, C_in/groups, kH, kW]``."""
    kernel_shape = (outputs.shape[0], inputs.shape[1], *core.shape[3:])
    outputs_first, inputs_first = expansion_macs(kernel_shape, Ranks(outputs.shape[1], core.shape[2]), groups)
    if outputs_first < inputs_first:
        return _expand("gri,ngort->ngoit", inputs, expand_outputs(core, outputs, groups), groups)
    return expand_outputs(_expand("gri,ngort->ngoit", inputs, core, groups), outputs, groups)


def expansion_macs(kernel_shape: Sequence[int], ranks: Ranks, groups: int) -> tuple[int, int]:
    """Multiply-adds of :func:`expand` for one kernel: by the output factor first, or by the input factor first."""
    out_channels, inputs, *taps = kernel_shape
    outputs_first = out_channels * ranks.inputs * (ranks.outputs + inputs)
    inputs_first = ranks.outputs * inputs * (groups * ranks.inputs + out_channels)
    return outputs_first * math.prod(taps), inputs_first * math.prod(taps)


def _expand(equation: str, factor: Tensor, core: Tensor, groups: int) -> Tensor:
    parts, by_group = core.flatten(3).unflatten(1, (groups, -1)), factor.unflatten(0, (groups, -1))
    dtype = torch.promote_types(core.dtype, factor.dtype)
    with without_autocast(core.device):
        expanded = torch.einsum(equation, by_group.to(dtype), parts.to(dtype))
    return expanded.contiguous().flatten(1, 2).unflatten(3, core.shape[3:])


def truncated_hosvd(weight: Tensor, ranks: Ranks, groups: int) -> Factors:
    """Factorise a kernel ``[C_out, C_in/groups, kH, kW]`` by its leading singular vectors, one mode after the other.

    De Lathauwer et al., "A Multilinear Singular Value Decomposition", 2000, with the sequential truncation of
    Vannieuwenhoven et al., 2012. Exact for the largest ranks; the factors have orthonormal columns (outputs) and rows
    (inputs). Computed on the CPU, in float64.

    Returns:
        In float64, on the CPU.

    Raises:
        ValueError: If the kernel holds NaN or infinity.
    """
    kernel = weight.detach().to("cpu", torch.float64)
    if not kernel.isfinite().all():
        raise ValueError("a kernel that holds NaN or infinity cannot be factorised")
    kernel = kernel.unflatten(0, (groups, -1)).flatten(3)
    outputs = _leading_vectors(kernel.flatten(2), ranks.outputs)
    core = torch.einsum("gor,goit->grit", outputs, kernel)
    inputs = _leading_vectors(core.transpose(1, 2).flatten(2), ranks.inputs)
    core = torch.einsum("giq,grit->grqt", inputs, core)
    return Factors(core.flatten(0, 1).unflatten(2, weight.shape[2:]), inputs.mT.flatten(0, 1), outputs.flatten(0, 1))


def _leading_vectors(matrices: Tensor, count: int) -> Tensor:
    """The leading left singular vectors ``[g, n, count]`` of matrices ``[g, n, m]``."""
    # of n x n products: m may be many times n, and rounding of the products costs no exactness, as any basis is exact
    return torch.linalg.eigh(matrices @ matrices.mT).eigenvectors.flip(2)[:, :, :count]


def random_factor(rows: int, columns: int, groups: int) -> Tensor:
    """A random factor ``[groups * rows, columns]``, its shorter side orthonormal in each group; float32, on the CPU."""
    short, long = sorted((rows, columns))
    basis = torch.linalg.qr(torch.randn(groups, long, short, device="cpu", dtype=torch.float32)).Q
    return (basis if rows == long else basis.mT).flatten(0, 1)
