"""If these fail, DCD's forms are not the official ones, or its sparse form mixes channels of different blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyvision.layers.dcd import DCDConv2d
from dyvision.layers.dcd_branch import dimensions


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # worked out by hand from rule A: 4 * 32 // 8 = 16, 16 ** 2 <= 256
        ((32, 192, "pointwise", 16), (2, 16, 16)),
        ((192, 32, "pointwise", 16), (1, 16, 16)),
        ((64, 64, "basic", 16), (2, 16, 16)),
        ((64, 64, "bottleneck", 16), (1, 8, 4)),
        ((16, 32, "pointwise", 16), (2, 4, 4)),
        # Phi of 256 numbers instead of 32 ** 2
        ((64, 64, "pointwise", 16, 32, 4), (1, 32, 16)),
    ],
)
def test_dimensions(arguments, expected):
    assert dimensions(*arguments) == expected


def randomise(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_blocks_are_separate_decompositions(blocks, kernel, memory_format):
    layer = DCDConv2d(8, 12, kernel, padding=kernel // 2, blocks=blocks, rank=4, bias=False).double()
    randomise(layer)
    x = torch.randn(3, 8, 6, 5, dtype=torch.float64)
    layer(x)
    layer.eval()
    scale, fusion = layer.coefficients(x)
    assert fusion.shape == (3, blocks, 4 // blocks, 4 // blocks)
    expected = []
    for sample in range(3):
        kernel_of_sample = scale[sample][:, None, None, None] * layer.weight
        shift = torch.zeros(12, dtype=torch.float64)
        for block in range(blocks):
            rows, inner, columns = (slice(block * size // blocks, (block + 1) * size // blocks) for size in (12, 4, 8))
            (a1, c1), (a2, c2) = (
                (
                    a := bn.weight[inner] / (bn.running_var[inner] + bn.eps).sqrt(),
                    bn.bias[inner] - a * bn.running_mean[inner],
                )
                for bn in (layer.bn1, layer.bn2)
            )
            core = a2[:, None] * fusion[sample, block] + torch.eye(4 // blocks, dtype=torch.float64)
            p, q = layer.conv_p.weight[rows, :, 0, 0], layer.conv_q.weight[inner, :, 0, 0]
            kernel_of_sample[rows, columns, kernel // 2, kernel // 2] += p @ core @ (a1[:, None] * q)
            shift[rows] += p @ (core @ c1 + c2)
        expected.append(nn.functional.conv2d(x[sample : sample + 1], kernel_of_sample, shift, padding=kernel // 2))
    found = layer.to(memory_format=memory_format)(x.contiguous(memory_format=memory_format))
    torch.testing.assert_close(found, torch.cat(expected))


def test_sparse_form_starts_at_the_convolution_and_learns():
    conv = nn.Conv2d(16, 32, 1).eval()
    layer = DCDConv2d.from_conv(conv, blocks=4)
    assert layer.rank % 4 == 0
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    randomise(layer)
    layer.train()(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"blocks": 3}, "blocks must divide in_channels, got blocks=3, in_channels=8"),
        ({"blocks": 8}, "blocks must divide out_channels, got blocks=8, out_channels=12"),
        ({"blocks": 4, "rank": 6}, "blocks must divide rank"),
        ({"blocks": 0}, "blocks"),
        ({"form": "sparse"}, "form must be one of pointwise, basic, bottleneck"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        DCDConv2d(8, 12, 1, **arguments)
