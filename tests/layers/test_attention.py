"""If these fail, the baselines of every comparison compute something other than their papers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyvision.layers import ECA, ECAConv2d, SEConv2d, SqueezeExcite
from dyvision.layers.sk import SKConv2d


def perturb(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module.double().eval()


def gates(branch: nn.Module, pooled: torch.Tensor) -> torch.Tensor:
    """Gates of one sample ``[C]``, written out."""
    if hasattr(branch, "fc1"):
        hidden = (branch.fc1.weight @ pooled + branch.fc1.bias).clamp_min(0)
        return torch.sigmoid(branch.fc2.weight @ hidden + branch.fc2.bias)
    taps = branch.conv.weight[0, 0]
    padded = F.pad(pooled, (len(taps) // 2, len(taps) // 2))
    return torch.sigmoid(torch.stack([taps @ padded[c : c + len(taps)] for c in range(len(pooled))]))


@pytest.mark.parametrize("kind", [SqueezeExcite, ECA])
def test_modules_scale_channels(kind) -> None:
    module = perturb(kind(40))
    x = torch.randn(3, 40, 5, 7, dtype=torch.float64)
    expected = [sample * gates(module.branch, sample.mean((1, 2)))[:, None, None] for sample in x]
    torch.testing.assert_close(module(x), torch.stack(expected))


@pytest.mark.parametrize("kind", [SEConv2d, ECAConv2d])
def test_layers_scale_the_output_of_a_convolution(kind) -> None:
    layer = perturb(kind(6, 32, 3, stride=2, padding=1, groups=2))
    x = torch.randn(3, 6, 8, 7, dtype=torch.float64)
    static = F.conv2d(x, layer.weight, layer.bias, 2, 1, 1, 2)
    expected = [output * gates(layer.branch, output.mean((1, 2)))[:, None, None] for output in static]
    torch.testing.assert_close(layer(x), torch.stack(expected))
    torch.testing.assert_close(layer(x, layer.coefficients(x)), layer(x))


@pytest.mark.parametrize(("channels", "size"), [(16, 3), (64, 3), (128, 5), (256, 5), (2048, 7)])
def test_eca_filter_size_follows_the_channels(channels, size) -> None:
    assert ECA(channels).branch.conv.weight.shape == (1, 1, size)
    assert math.isclose(size, abs(math.log2(channels) / 2 + 0.5), abs_tol=1.1)


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), [(3, 2, 1, 2), (2, 1, 0, 1), (1, 1, 0, 1)])
def test_sk_agrees_with_a_loop_over_samples(kernel, stride, padding, groups, activation) -> None:
    layer = perturb(SKConv2d(6, 10, kernel, stride, padding, groups=groups, branches=3, activation=activation))
    x = torch.randn(3, 6, 9, 8, dtype=torch.float64)
    expected = []
    for sample in x[:, None]:
        features = []
        for m in range(3):
            # an undilated kernel with zeros between its taps, placed where the first branch's begins
            wide = torch.zeros(10, 6 // groups, *[(m + 1) * (kernel - 1) + 1] * 2, dtype=torch.float64)
            wide[:, :, :: m + 1, :: m + 1] = layer.weight[m]
            extra = m * (kernel - 1)
            edges = [padding + extra // 2, padding + extra - extra // 2] * 2
            output = F.conv2d(F.pad(sample, edges), wide, layer.bias[m], stride, groups=groups)
            features.append(torch.relu(layer.norms[m](output))[0] if activation else output[0])
        z = torch.relu(layer.branch.bn(layer.branch.fc(sum(features).mean((1, 2)))[None]))[0]
        attention = torch.softmax((layer.branch.select.weight @ z).view(3, 10), 0)
        expected.append(sum(a[:, None, None] * u for a, u in zip(attention, features, strict=True)))
    torch.testing.assert_close(layer(x), torch.stack(expected))


@pytest.mark.parametrize("kind", [SEConv2d, ECAConv2d, SKConv2d])
def test_starts_from_a_static_convolution_and_learns_everywhere(kind) -> None:
    conv, x = nn.Conv2d(6, 12, 3, padding=1), torch.randn(3, 6, 9, 7)
    layer = kind.from_conv(conv)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="reduction must be a positive int"):
        SEConv2d(6, 12, 3, reduction=0)
    with pytest.raises(ValueError, match="gate_size must be odd, got 4"):
        ECAConv2d(6, 12, 3, gate_size=4)
    with pytest.raises(ValueError, match="branches must be a positive int"):
        SKConv2d(6, 12, 3, branches=0)
    with pytest.raises(ValueError, match="activation=True"):
        SKConv2d.from_conv(nn.Conv2d(6, 12, 3), activation=True)
