"""How alike the output kernels of a layer are: static ones, and those a dynamic layer forms for an image.

The question of the kernel-correlation figure of Zhang et al., "DyNet", arXiv 2004.10694: dynamic kernels are to be
less redundant than static ones. Here it is the absolute Pearson correlation of every pair of output kernels ``W[o]``,
each flattened. Kernels of one element, or constant ones, have no correlation: such pairs are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyvision.layers import DCDConv2d, DynamicConv2d, ODConv2d
from dyvision.layers.bank import BankedConv2d
from dyvision.ops.kernels import mix_kernels

#: bins of the histogram of |correlation| over [0, 1]
BINS = 25


@dataclass(frozen=True)
class Correlation:
    """How alike the output kernels of a layer are.

    Attributes:
        matrix: |r| of every pair of kernels ``[C_out, C_out]``, averaged over images; NaN where it does not exist.
        histogram: Share of the pairs (of all images) per bin of |r|, ``BINS`` equal bins over [0, 1].
    """

    matrix: Tensor
    histogram: Tensor

    @property
    def mean(self) -> float:
        """Mean |r| over pairs of different kernels; NaN if there is no such pair."""
        return float(self.matrix[_pairs(self.matrix.shape[0])].nanmean())


def correlate(kernels: Tensor) -> Tensor:
    """Absolute Pearson correlation of output kernels.

    Args:
        kernels: ``[C_out, ...]``.

    Returns:
        ``[C_out, C_out]`` in [0, 1], float32 on the CPU; NaN for kernels whose weights are all equal.
    """
    rows = kernels.detach().flatten(1).double()
    centred = rows - rows.mean(1, keepdim=True)
    norm = centred.norm(dim=1)
    # what rounding leaves of a constant kernel is no direction
    constant = norm <= 1e-6 * rows.norm(dim=1)
    unit = (centred / norm.masked_fill(constant, torch.nan)[:, None]).float()
    return (unit @ unit.T).abs().clamp(max=1).cpu()


def effective_kernel(layer: DynamicConv2d, coefficients: Any, index: int) -> Tensor:
    """The kernel ``[C_out, C_in/groups, kH, kW]``, in float64, that a layer applies to one image of a batch.

    DCD's is ``Lambda W0`` plus, at the centre tap, ``P (BN2 Phi + 1) BN1 Q`` with the scales of the BatchNorms' running
    statistics (their shifts are no part of the kernel); with groups it is written out dense, ``[C_out, C_in, ...]``.
    ODConv's has all four attentions.
    """
    weight = (layer.kernels() if isinstance(layer, BankedConv2d) else layer.weight).double()
    if isinstance(layer, DCDConv2d):
        scale, fusion = coefficients.scale[index].double(), torch.block_diag(*coefficients.fusion[index].double())
        first, second = (
            norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()  # type: ignore[union-attr]
            for norm in (layer.bn1, layer.bn2)
        )
        mixed = second[:, None] * fusion + torch.eye(layer.rank, dtype=fusion.dtype, device=fusion.device)
        down, up = (write_dense(conv.weight.double(), conv.groups).flatten(1) for conv in (layer.conv_q, layer.conv_p))
        residual = up @ mixed @ (first[:, None] * down)
        kernel = scale[:, None, None, None] * write_dense(weight, layer.groups)
        height, width = ((side - 1) // 2 for side in layer.kernel_size)
        kernel[:, :, height, width] += residual
        return kernel
    if isinstance(layer, ODConv2d):
        kernel = mix_kernels(weight, coefficients.kernel[index : index + 1].double())[0]
        channels = coefficients.channel[index].double().view(layer.groups, 1, -1, 1, 1)
        kernel = (kernel.unflatten(0, (layer.groups, -1)) * channels).flatten(0, 1)
        kernel = kernel if coefficients.spatial is None else kernel * coefficients.spatial[index].double()
        return kernel if coefficients.filter is None else kernel * coefficients.filter[index].double().view(-1, 1, 1, 1)
    return mix_kernels(weight, coefficients[index : index + 1].double())[0]


def _pairs(size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu(1)


def count_pairs(matrix: Tensor) -> Tensor:
    """Histogram ``[BINS]`` of the values of ``matrix [C_out, C_out]`` above the diagonal, NaN left out."""
    values = matrix[_pairs(len(matrix))]
    return torch.histc(values[~values.isnan()], BINS, 0, 1)


def write_dense(weight: Tensor, groups: int) -> Tensor:
    """Grouped kernels ``[O, I/groups, kH, kW]`` as ``[O, I, kH, kW]``, zero between groups."""
    parts = weight.unflatten(0, (groups, -1))
    dense = weight.new_zeros(groups, parts.shape[1], groups, *parts.shape[2:])
    for index in range(groups):
        dense[index, :, index] = parts[index]
    return dense.flatten(2, 3).flatten(0, 1)
