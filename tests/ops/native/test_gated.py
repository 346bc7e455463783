"""ODConv's gates, applied while kernels are mixed, are those that are applied to kernels or maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dyvision.layers import get_layer
from dyvision.ops import formulation, mixture_conv2d, native
from dyvision.ops.gated import gated_mixture

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.sampled_from([1, 3]),
    groups=st.sampled_from([1, 4, 8]),
    outputs=st.sampled_from([8, 16]),
    kernels=st.sampled_from([1, 4]),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, "same"]),
    bias=st.booleans(),
    batch=st.integers(1, 3),
    size=st.sampled_from([(5, 5), (8, 9), (3, 20)]),
)
def test_a_layer_computes_the_same_with_and_without(
    kernel, groups, outputs, kernels, stride, padding, bias, batch, size
):
    options = {"stride": stride, "padding": padding, "groups": groups, "bias": bias, "num_kernels": kernels}
    layer = get_layer("odconv")(8, outputs, kernel, **options).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        x = torch.randn(batch, 8, *size)
        found = layer(x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "available", lambda: False)
            torch.testing.assert_close(found, layer(x), rtol=1e-3, atol=1e-4)


def test_it_is_used_for_plain_calls_only():
    x, bank, gates, mix = torch.randn(2, 8, 6, 6), torch.randn(4, 6, 8, 3, 3), torch.rand(2, 8), torch.rand(2, 4)
    arguments = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}
    call = lambda x, bank: gated_mixture(x, bank, mix, gates, None, None, None, arguments)  # noqa: E731
    scaled = mixture_conv2d(x * gates[:, :, None, None], bank, mix, padding=1)
    # a gate without taps is one number for all of them
    torch.testing.assert_close(call(x, bank), scaled, rtol=1e-4, atol=1e-4)
    found = call(x.requires_grad_(), bank)
    assert found is not None and found.requires_grad
    torch.testing.assert_close(found.detach(), scaled, rtol=1e-4, atol=1e-4)
    with formulation("grouped"):
        assert call(x, bank) is None
    with torch.no_grad():
        assert call(x, bank) is not None
        assert call(x.double(), bank.double()) is None
        assert call(x.to(memory_format=torch.channels_last), bank) is None


@pytest.mark.parametrize("bias", [7, 9])
def test_a_bias_of_another_size_is_told(bias):
    layer = get_layer("odconv")(8, 8, 3, padding=1, bias=True).eval()
    layer.bias = torch.nn.Parameter(torch.zeros(bias))
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
        layer(torch.randn(2, 8, 6, 6))


@pytest.mark.parametrize("kernels", [3, 5])
def test_more_or_fewer_kernels_than_the_branch_knows_are_told(kernels):
    layer = get_layer("odconv")(8, 8, 3, padding=1, num_kernels=4).eval()
    layer.weight = torch.nn.Parameter(torch.zeros(kernels, 8, 8, 3, 3))
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
        layer(torch.randn(2, 8, 6, 6))


def test_arguments_may_be_lists():
    layer = get_layer("odconv")(8, 8, 3, padding=1).eval()
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        expected = layer(x)
        layer.stride, layer.padding = [1, 1], [1, 1]
        torch.testing.assert_close(layer(x), expected)
