"""If these fail, frequencies get the wrong gates, or a map loses or doubles a band."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyvision.layers.fdconv import FDConv2d
from dyvision.layers.frequency import frequency_order

INPUTS, OUTPUTS = 20, 36


def perturbed(*args, **kwargs) -> FDConv2d:
    layer = FDConv2d(*args, **kwargs).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return layer


def low_pass(x: torch.Tensor, limit: int) -> torch.Tensor:
    """Keep the frequencies below ``limit`` 64ths, by a full complex transform of one ``[C, H, W]``."""
    height, width = x.shape[-2:]
    half = width // 2 + 1
    mask = torch.zeros(height, width)
    for row in range(height):
        for column in range(width):
            # nearest in a mask of 64 x 33 for the half spectrum; the other half is its mirror image
            source, mirrored = (row, column) if column < half else ((height - row) % height, width - column)
            r, c = source * 64 // height, mirrored * 33 // half
            mask[row, column] = max(min(r, 64 - r), c) < limit
    kept = torch.fft.fft2(x) * mask
    return torch.fft.irfft2(kept[..., :half], s=(height, width))


def reference(layer: FDConv2d, x: torch.Tensor) -> torch.Tensor:
    """One sample at a time, one frequency group after the other (one group of channels)."""
    out_channels, inputs, k, _ = layer.kernel_shape
    size, outputs = (out_channels * k, inputs * k), []
    spectrum = torch.view_as_complex(layer.dft_weight) * (min(inputs, out_channels) // 2)
    for sample in x:
        channel, filters, spatial, kernel, local = layer.coefficients(sample[None])
        plane = 0
        for gate, members in zip(kernel[0], layer.order.view(layer.num_kernels, -1), strict=True):
            part = torch.zeros_like(spectrum).flatten()
            part[members.long()] = spectrum.flatten()[members.long()]
            plane = plane + gate * torch.fft.irfft2(part.view_as(spectrum), s=size)
        weight = plane.view(out_channels, k, inputs, k).permute(0, 2, 1, 3) * local[0]
        weight = weight * (1 if spatial is None else spatial[0])
        if layer.bands is not None:
            gates = 2 * torch.sigmoid(F.conv2d(sample, layer.bands.weight, layer.bands.bias, padding=1))
            edges = [sample] + [low_pass(sample, limit) for limit in (16, 9, 5)]
            sample = edges[3] + sum(gates[i] * (edges[i] - edges[i + 1]) for i in range(3))
        output = F.conv2d(channel[0, :, None, None] * sample, weight, None, layer.stride, layer.padding, layer.dilation)
        outputs.append(filters[0, :, None, None] * output + layer.bias[:, None, None])
    return torch.stack(outputs)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 2)])
def test_agrees_with_a_loop_over_samples_and_frequency_groups(kernel, stride, padding) -> None:
    layer = perturbed(INPUTS, OUTPUTS, kernel, stride, padding, num_kernels=3, temperature=2.0).eval()
    x = torch.randn(3, INPUTS, 7, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(layer, x))


def test_groups_are_the_blocks_of_a_dense_kernel() -> None:
    layer = perturbed(40, OUTPUTS, 3, padding=1, groups=2).eval()
    assert layer.is_dynamic
    x = torch.randn(2, 40, 6, 5, dtype=torch.float64)
    gates = layer.coefficients(x)
    assert gates.local.shape == (2, *layer.kernel_shape)
    # the local gates of an output channel are those that a dense layer has for the inputs of its group
    whole = F.conv1d(layer.branch.norm(x.mean((2, 3)))[:, None], layer.branch.local_conv.weight, padding=1)
    whole = (2 * torch.sigmoid(whole)).view(2, OUTPUTS, 3, 3, 40).movedim(-1, 2)
    torch.testing.assert_close(gates.local[:, :18], whole[:, :18, :20])
    torch.testing.assert_close(gates.local[:, 18:], whole[:, 18:, 20:])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("inputs", [20, 21])
def test_starts_from_a_static_convolution_and_learns_everywhere(inputs, kernel) -> None:
    conv, x = nn.Conv2d(inputs, OUTPUTS, kernel, padding=1), torch.randn(3, inputs, 9, 7)
    layer = FDConv2d.from_conv(conv)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "tanh", "local_activation": "tanh"},
        {"gate_scale": 1.5, "param_ratio": 2},
        {"gate_scale": 3.0, "local_activation": "tanh", "param_reduction": 2.0},
        {"activation": "softmax", "kernel_gates_only": True, "local_gates": False},
        {"spectral": False},
        {"bands": {"low": True, "groups": 4, "activation": "softmax"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [1, 3])
def test_every_option_starts_from_a_static_convolution(kernel, options) -> None:
    conv, x = nn.Conv2d(20, OUTPUTS, kernel, padding=1), torch.randn(3, 20, 9, 7)
    layer = FDConv2d.from_conv(conv, **options)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="use preserve_outputs=False"):
        FDConv2d.from_conv(conv, param_reduction=0.5, num_kernels=2)
    assert (
        FDConv2d.from_conv(conv, preserve_outputs=False, param_reduction=0.5, num_kernels=2)(x).shape == conv(x).shape
    )


def test_frequencies_are_sorted_by_radius_and_saved() -> None:
    order = frequency_order(6, 8)
    rows, columns = order // 5, order % 5
    radius = (torch.minimum(rows, 6 - rows) / 6).square() + (columns / 8).square()
    assert (radius.diff() > -1e-6).all() and order.unique().numel() == 30
    ties = radius.diff().abs() < 1e-6
    assert (order.diff()[ties] > 0).all()
    layer, other = FDConv2d(20, 20, 1), FDConv2d(20, 20, 1)
    layer.order.copy_(layer.order.flip(0))
    other.load_state_dict(layer.state_dict())
    assert (other.order == layer.order).all()


def test_small_or_unusual_kernels_are_static() -> None:
    for arguments in ((16, 32, 3), (32, 16, 1), (32, 32, 5), (32, 32, (1, 3))):
        layer = FDConv2d(*arguments)
        assert not layer.is_dynamic and layer.coefficients(torch.randn(1, arguments[0], 6, 6)) is None
        assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in nn.Conv2d(*arguments).parameters())
    assert FDConv2d(17, 18, 3, num_kernels=1).is_dynamic


@pytest.mark.parametrize(("inputs", "outputs", "kernel", "groups"), [(17, 17, 1, 3), (18, 21, 3, 4), (18, 25, 1, 2)])
def test_there_are_four_groups_of_frequencies_or_the_most_that_divide_them(inputs, outputs, kernel, groups) -> None:
    layer = FDConv2d(inputs, outputs, kernel)
    assert layer.is_dynamic and layer.num_kernels == groups
    assert layer.coefficients(torch.randn(2, inputs, 5, 5)).kernel.shape == (2, groups)


def test_an_impossible_number_of_groups_is_refused_with_the_possible_ones() -> None:
    with pytest.raises(ValueError, match=r"153 in this layer \(up to 128: 1, 3, 9, 17, 51\), got 8"):
        FDConv2d(17, 17, 1, num_kernels=8)


@pytest.mark.slow
def test_compiles_without_graph_breaks() -> None:
    layer, x = perturbed(INPUTS, OUTPUTS, 3, padding=1).float().eval(), torch.randn(2, INPUTS, 8, 7)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_kernels": 7}, "num_kernels must divide the number of frequencies"),
        ({"num_kernels": 0}, "num_kernels must be a positive int"),
        ({"reduction": 0}, "reduction must be in"),
        ({"temperature": 0}, "temperature must be positive"),
    ],
)
def test_bad_arguments_are_named(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        FDConv2d(20, 20, 3, **arguments)
