"""If these fail, the report shows coefficients or kernels that the network does not use, or compares the wrong ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dyvision.analysis.correlation import correlate, effective_kernel
from dyvision.analysis.routing import SUPPORTED, analyze_routing, select_layers, variance_share
from dyvision.backbones import create_model
from dyvision.layers import CondConv2d, DCDConv2d, DyConv2d, get_layer

METHODS = ["condconv", "dcd", "dyconv", "dynet", "odconv"]


def test_every_supported_method_is_tested():
    assert {get_layer(name) for name in METHODS} == set(SUPPORTED)


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in METHODS), *((name, {"bank": "tucker"}) for name in METHODS if name != "dcd")],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2])
def test_effective_kernel_is_the_kernel_the_layer_applies(name, options, groups):
    layer = get_layer(name)(4, 6, 3, padding=1, groups=groups, **options).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 4, 7, 5, dtype=torch.double)
    coefficients = layer.coefficients(x)
    # with its coefficients held, a layer is affine in its input
    response = layer(x, coefficients) - layer(torch.zeros_like(x), coefficients)
    for index in range(3):
        kernel = effective_kernel(layer, coefficients, index).double()
        dense = kernel.shape[1] == 4
        expected = nn.functional.conv2d(x[index : index + 1], kernel, padding=1, groups=1 if dense else groups)
        torch.testing.assert_close(response[index : index + 1], expected, rtol=1e-5, atol=1e-5)


def test_correlation_is_numpys_without_constant_kernels():
    kernels = torch.randn(5, 3, 3, 3)
    kernels[3] = 0.1
    found = correlate(kernels)
    rest = [0, 1, 2, 4]
    torch.testing.assert_close(found[rest][:, rest], torch.corrcoef(kernels[rest].flatten(1)).abs())
    assert found[3].isnan().all() and found[:, 3].isnan().all()


def test_share_of_variance_between_classes():
    labels = torch.tensor([0, 0, 1, 1])
    assert variance_share(torch.tensor([[1.0], [1.0], [3.0], [3.0]]), labels) == 1
    assert variance_share(torch.tensor([[1.0], [3.0], [1.0], [3.0]]), labels) == 0
    # between: 4 * 1; within: 4 * 0.25
    assert variance_share(torch.tensor([[0.5], [1.5], [2.5], [3.5]]), labels) == pytest.approx(0.8)
    assert math.isnan(variance_share(torch.ones(4, 2), labels))


def test_a_factorised_bank_is_compared_with_the_mean_of_its_kernels():
    model = nn.Sequential(DyConv2d(4, 6, 3, bank="tucker"))
    (result,) = analyze_routing(model, [(torch.randn(2, 4, 6, 6), None)])
    torch.testing.assert_close(result.static.matrix, correlate(model[0].kernels().mean(0)))


@pytest.mark.parametrize("method", METHODS)
def test_a_network_is_recorded_image_by_image(method):
    model = create_model("mobilenetv2_035", layer=method, num_classes=4)
    static = create_model("mobilenetv2_035", num_classes=4)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    model.train()
    results = analyze_routing(model, batches, static, correlation_images=5)
    assert model.training
    assert [result.name for result in results] == list(select_layers(model))
    for result in results:
        assert result.coefficients.shape[0] == 6 and result.labels.tolist() == labels.tolist()
        assert result.correlation_images == 5 and result.static_source == "static network"
        assert 0 <= result.static.mean <= 1 or math.isnan(result.static.mean)
        assert result.static.histogram.sum() == pytest.approx(1) or math.isnan(result.static.mean)
        assert result.chance_share == pytest.approx(2 / 5)
        means = result.class_means(4)
        torch.testing.assert_close(means[0], result.coefficients[[0, 3]].mean(0))
        assert means[3].isnan().all()
    alone = analyze_routing(model, [(images[2:3], None)])
    torch.testing.assert_close(alone[-1].coefficients[0], results[-1].coefficients[2], rtol=1e-4, atol=1e-5)
    assert alone[-1].labels is None and alone[-1].class_share is None


def test_equal_kernels_correlate_whatever_the_coefficients():
    layer = DyConv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(1, 1, 3, 3, 3).expand_as(layer.weight))
    (result,) = analyze_routing(nn.Sequential(layer), [(torch.randn(2, 3, 5, 5), None)])
    assert result.dynamic.mean == pytest.approx(1, abs=1e-5) and result.dynamic.histogram[-1] == 1
    assert result.static_source == "mean of its own kernels"


def test_dcd_is_compared_with_its_static_kernel():
    layer = DCDConv2d(8, 6, 1)
    (result,) = analyze_routing(nn.Sequential(layer), [(torch.randn(2, 8, 4, 4), None)])
    torch.testing.assert_close(result.static.matrix, correlate(layer.weight))
    assert "W0" in result.static_source


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("0.conv", "no convolution is named '0.conv'"),
        ("1", "'1' is Conv2d.*Supported: CondConv2d"),
        ("2", "num_kernels=1: no kernel attention"),
    ],
)
def test_layers_without_coefficients_are_named(pattern, message):
    model = nn.Sequential(CondConv2d(3, 3, 1), nn.Conv2d(3, 3, 1), get_layer("odconv")(3, 3, 1, num_kernels=1))
    with pytest.raises(ValueError, match=message):
        analyze_routing(model, [(torch.randn(1, 3, 2, 2), None)], layers=[pattern])


def test_a_static_network_of_other_names_is_refused():
    model = nn.Sequential(CondConv2d(3, 3, 1))
    with pytest.raises(ValueError, match="no static convolution at '0'"):
        analyze_routing(model, [], nn.ModuleDict({"a": nn.Conv2d(3, 3, 1)}))
    with pytest.raises(ValueError, match="no images"):
        analyze_routing(model, [])
