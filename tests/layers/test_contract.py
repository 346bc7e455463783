"""What every layer promises: a drop-in for ``nn.Conv2d`` that treats each sample by itself."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from dyvision.layers import CoefficientBranch, get_layer, list_layers, register_layer

DYNAMIC = [name for name in list_layers() if name != "static"]
# with as few channels as here, FDConv is static
DEPENDENT = [name for name in DYNAMIC if name != "fdconv"]
# kernel, stride, padding, dilation, groups, bias
GEOMETRIES = [
    (1, 1, 0, 1, 1, True),
    (1, 2, 0, 1, 1, False),
    (3, 1, 1, 1, 1, False),
    (3, 2, 1, 1, 2, True),
    (3, 1, 2, 2, 6, True),
    (5, 2, 0, 1, 1, True),
    ((1, 3), (2, 1), (0, 1), 1, 3, False),
    (2, 2, 0, 1, 1, True),
]
INPUTS, OUTPUTS = 6, 12


def build(name: str, kernel=3, stride=1, padding=1, dilation=1, groups=1, bias=True, **kwargs) -> nn.Module:
    layer = get_layer(name)(INPUTS, OUTPUTS, kernel, stride, padding, dilation, groups, bias, **kwargs)
    with torch.no_grad():
        for parameter in layer.parameters():  # branches start near zero: make the dynamic part visible
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return layer


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", list_layers())
def test_shape_is_that_of_conv2d(name, geometry) -> None:
    x = torch.randn(2, INPUTS, 9, 11)
    assert build(name, *geometry)(x).shape == nn.Conv2d(INPUTS, OUTPUTS, *geometry)(x).shape


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 2, 1), (3, 1, 0), (3, 1, 2)])
@pytest.mark.parametrize("name", DYNAMIC)
def test_agrees_with_one_explicit_kernel_per_sample(name, kernel, stride, padding, reference) -> None:
    layer = build(name, kernel, stride, padding).double()
    x = torch.randn(5, INPUTS, 9, 8, dtype=torch.float64) + torch.randn(5, INPUTS, 1, 1, dtype=torch.float64)
    layer(x)  # training mode: running statistics that differ from 0 and 1
    layer.eval()
    torch.testing.assert_close(layer(x), torch.cat([reference(layer, sample[None]) for sample in x]))


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", list_layers())
def test_samples_are_independent(name, batch) -> None:
    layer = build(name).double().eval()
    x = torch.randn(batch, INPUTS, 7, 9, dtype=torch.float64)
    together = layer(x)
    torch.testing.assert_close(together, torch.cat([layer(sample[None]) for sample in x]))
    order = torch.randperm(batch)
    torch.testing.assert_close(layer(x[order]), together[order])


@pytest.mark.parametrize("name", list_layers())
def test_every_parameter_gets_a_gradient(name) -> None:
    layer = build(name, groups=2)
    layer(torch.randn(3, INPUTS, 8, 7)).square().sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", DEPENDENT)
def test_the_kernel_depends_on_the_input(name) -> None:
    layer = build(name, bias=False).double().eval()
    x = torch.randn(8, INPUTS, 7, 9, dtype=torch.float64) + 3 * torch.randn(8, INPUTS, 1, 1, dtype=torch.float64)
    assert (layer(2 * x) - 2 * layer(x)).abs().max() > 1e-4


@pytest.mark.parametrize("name", list_layers())
def test_trains_on_one_pixel_at_batch_1(name) -> None:
    layer = build(name)
    output = layer(torch.randn(1, INPUTS, 1, 1))
    output.sum().backward()
    assert output.isfinite().all()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", list_layers())
def test_from_conv_computes_the_same_function(name, geometry) -> None:
    conv = nn.Conv2d(INPUTS, OUTPUTS, *geometry).eval()
    layer = get_layer(name).from_conv(conv)
    x = torch.randn(2, INPUTS, 9, 11)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    assert not layer.training


@pytest.mark.parametrize("name", list_layers())
def test_from_conv_keeps_tensorflow_padding(name) -> None:
    conv = Conv2dSame(INPUTS, OUTPUTS, 3, stride=2).eval()
    x = torch.randn(2, INPUTS, 8, 9)
    torch.testing.assert_close(get_layer(name).from_conv(conv)(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["condconv", "dyconv", "dynet", "odconv"])
def test_mixed_kernels_part_even_from_a_convolution_of_zeros(name) -> None:
    conv = nn.Conv2d(INPUTS, OUTPUTS, 3)
    nn.init.zeros_(conv.weight)
    layer = get_layer(name).from_conv(conv)
    assert (layer.weight[0] - layer.weight[1]).abs().max() > 0
    x = torch.randn(2, INPUTS, 9, 11)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DYNAMIC)
def test_from_conv_without_preserving_uses_the_own_initialisation(name) -> None:
    conv = nn.Conv2d(INPUTS, OUTPUTS, 3, padding=1).eval()
    x = torch.randn(2, INPUTS, 8, 9)
    layer = get_layer(name).from_conv(conv, preserve_outputs=False)
    assert (layer(x) - conv(x)).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DEPENDENT)
def test_coefficients_stay_float32_under_autocast(name, dtype) -> None:
    layer, x = build(name), torch.randn(2, INPUTS, 8, 7)
    with torch.autocast("cpu", dtype):
        coefficients, output = layer.coefficients(x), layer(x)
        output.float().sum().backward()
    for tensor in coefficients if isinstance(coefficients, tuple) else (coefficients,):
        assert tensor is None or tensor.dtype == torch.float32
    assert output.isfinite().all()
    torch.testing.assert_close(output.float(), layer(x), rtol=0.1, atol=0.3)


@pytest.mark.parametrize(("kernel", "padding", "size"), [(1, 0, 9), (1, 0, 2), (3, 1, 9)])
@pytest.mark.parametrize("name", DYNAMIC)
def test_evaluates_under_autocast_as_in_float32(name, kernel, padding, size) -> None:
    layer, x = build(name, kernel, padding=padding).eval(), torch.randn(2, INPUTS, size, size)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.03 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("name", list_layers())
def test_runs_in_bfloat16_and_channels_last(name) -> None:
    layer = build(name).eval()
    x = torch.randn(2, INPUTS, 8, 7)
    expected = layer(x)
    torch.testing.assert_close(
        layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), expected
    )
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", list_layers())
def test_state_dict_and_copy_keep_the_function(name) -> None:
    layer, x = build(name), torch.randn(2, INPUTS, 8, 7)
    layer(x)
    other = build(name)
    other.load_state_dict(layer.state_dict())
    expected = layer.eval()(x)
    torch.testing.assert_close(other.eval()(x), expected)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("name", list_layers())
def test_padding_modes(name, mode) -> None:
    conv = nn.Conv2d(INPUTS, OUTPUTS, 3, padding=1, padding_mode=mode).eval()
    x = torch.randn(2, INPUTS, 8, 7)
    torch.testing.assert_close(get_layer(name).from_conv(conv)(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMIC)
def test_compiles_without_graph_breaks(name) -> None:
    layer, x = build(name).eval(), torch.randn(3, INPUTS, 8, 7)
    torch.compiler.reset()  # of one code object it compiles eight versions, in all tests together
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-4)


def test_temperature_flattens_the_attention_and_is_saved() -> None:
    layer, x = build("dyconv"), torch.randn(2, INPUTS, 8, 7)
    sharp = layer.coefficients(x)
    layer.set_temperature(30.0)
    assert layer.coefficients(x).std() < sharp.std() / 5
    other = build("dyconv")
    other.load_state_dict(layer.state_dict())
    assert other.temperature == 30
    with pytest.raises(ValueError, match="temperature must be positive"):
        layer.set_temperature(0)


@pytest.mark.parametrize("name", ["condconv", "dynet", "weightnet"])
def test_shared_branch_feeds_each_layer(name) -> None:
    kind = get_layer(name)
    layers = [kind(INPUTS, 4, 1, branch=False), kind(4, OUTPUTS, 3, padding=1, branch=False)]
    branch = kind.make_shared_branch(INPUTS, layers)
    assert isinstance(branch, CoefficientBranch)
    x = torch.randn(2, INPUTS, 8, 7)
    first, second = branch(x)
    assert layers[1](layers[0](x, first), second).shape == (2, OUTPUTS, 8, 7)
    with pytest.raises(ValueError, match="branch=False"):
        layers[0](x)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"groups": 4}, "in_channels=6 must be divisible by groups=4"),
        ({"padding_mode": "mirror"}, "padding_mode must be one of"),
        ({"padding": "full"}, "padding must be"),
        ({"stride": 0}, "stride must be"),
    ],
)
def test_bad_arguments_are_named(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        get_layer("dcd")(INPUTS, OUTPUTS, 3, **arguments)


def test_registry_errors() -> None:
    with pytest.raises(ValueError, match="did you mean 'dyconv'"):
        get_layer("dyconf")
    with pytest.raises(ValueError, match="registered already"):
        register_layer("dcd")(nn.Module)
