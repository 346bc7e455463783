"""One sample through each method, by its formula: an explicitly built kernel and one library convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(layer: nn.Module, sample: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(sample, kernel, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _mixture(layer: nn.Module, sample: Tensor) -> Tensor:
    coefficients = layer.coefficients(sample)[0]
    kernel = sum(c * w for c, w in zip(coefficients, layer.kernels(), strict=True))
    return _conv(layer, sample, kernel, sum(c * b for c, b in zip(coefficients, layer.bias, strict=True)))


def _dynet(layer: nn.Module, sample: Tensor) -> Tensor:
    eta, weight = layer.coefficients(sample)[0], layer.kernels()
    rows = [sum(eta[i, t] * weight[i, t] for i in range(len(weight))) for t in range(layer.out_channels)]
    return _conv(layer, sample, torch.stack(rows), layer.bias)


def _dcd(layer: nn.Module, sample: Tensor) -> Tensor:
    scale, fusion = layer.coefficients(sample)
    a1, a2 = (bn.weight / (bn.running_var + bn.eps).sqrt() for bn in (layer.bn1, layer.bn2))
    c1, c2 = (bn.bias - a * bn.running_mean for bn, a in ((layer.bn1, a1), (layer.bn2, a2)))
    core = torch.diag(a2) @ torch.block_diag(*fusion[0]) + torch.eye(layer.rank, dtype=fusion.dtype)
    p, q = (torch.block_diag(*conv.weight[:, :, 0, 0].chunk(layer.blocks)) for conv in (layer.conv_p, layer.conv_q))
    kernel = scale[0][:, None, None, None] * layer.weight
    kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2] += p @ core @ torch.diag(a1) @ q
    return _conv(layer, sample, kernel, scale[0] * layer.bias + p @ (core @ c1 + c2))


def _odconv(layer: nn.Module, sample: Tensor) -> Tensor:
    c = layer.coefficients(sample)
    kernel = sum(a * w for a, w in zip(c.kernel[0], layer.kernels(), strict=True)) * c.channel[0].view(1, -1, 1, 1)
    kernel = kernel * c.filter[0].view(-1, 1, 1, 1)
    if c.spatial is not None:
        kernel = kernel * c.spatial[0].view(1, 1, *layer.kernel_size)
    return _conv(layer, sample, kernel, layer.bias)


def _weightnet(layer: nn.Module, sample: Tensor) -> Tensor:
    return _conv(layer, sample, layer.kernels(layer.coefficients(sample))[0], layer.bias)


def _kernelwarehouse(layer: nn.Module, sample: Tensor) -> Tensor:
    cells = layer.warehouse(layer.coefficients(sample))[0]
    kernel = cells.view(*layer.kernel_size, layer.out_channels, layer.in_channels // layer.groups)
    return _conv(layer, sample, kernel.permute(2, 3, 0, 1), layer.bias)


def _drconv(layer: nn.Module, sample: Tensor) -> Tensor:
    coefficients = layer.coefficients(sample)
    chosen = coefficients.guide.argmax(1, keepdim=True)
    kernels = enumerate(coefficients.kernels[0])
    return sum((chosen == region) * _conv(layer, sample, kernel, layer.bias) for region, kernel in kernels)


def _dgc(layer: nn.Module, sample: Tensor) -> Tensor:
    heads = torch.arange(layer.out_channels) % layer.heads
    kernel = layer.weight * layer.coefficients(sample)[0, heads][:, :, None, None]
    return _conv(layer, sample, kernel, layer.bias)


def _scaled(layer: nn.Module, sample: Tensor) -> Tensor:
    scale = layer.coefficients(sample)[0]
    return _conv(layer, sample, scale[:, None, None, None] * layer.weight, scale * layer.bias)


def _sk(layer: nn.Module, sample: Tensor) -> Tensor:
    weights, total = layer.coefficients(sample)[0], 0
    for branch, scale in enumerate(weights):
        padding = [p + branch * (k - 1) // 2 for p, k in zip(layer.padding, layer.kernel_size, strict=True)]
        dilation = [d + branch for d in layer.dilation]
        kernel, bias = layer.weight[branch], layer.bias[branch]
        output = F.conv2d(sample, kernel, bias, layer.stride, padding, dilation, layer.groups)
        total = total + scale[:, None, None] * output
    return total


def _static(layer: nn.Module, sample: Tensor) -> Tensor:
    return _conv(layer, sample, layer.weight, layer.bias)


REFERENCES = {
    "condconv": _mixture,
    "dcd": _dcd,
    "dgc": _dgc,
    "drconv": _drconv,
    "dyconv": _mixture,
    "dynet": _dynet,
    "eca": _scaled,
    "fdconv": _static,  # so few channels stay static; test_fdconv.py has the dynamic reference
    "kernelwarehouse": _kernelwarehouse,
    "odconv": _odconv,
    "se": _scaled,
    "sk": _sk,
    "weightnet": _weightnet,
}


@pytest.fixture
def reference(name):
    """The formula of the layer under test."""
    return REFERENCES[name]
