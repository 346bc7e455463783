"""DCD's branch and folding in one call are its modules called one by one, or these are called."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dyvision.layers import get_layer
from dyvision.ops import native
from dyvision.ops.geometry import Geometry

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


def hard_sigmoid2(z: Tensor) -> Tensor:
    return F.relu6(z + 3) / 3


@settings(max_examples=100, deadline=None)
@given(
    instructions=st.sampled_from(native.instruction_sets() or ("none",)),
    threads=st.integers(1, 2),
    batch=st.integers(1, 4),
    channels=st.sampled_from([1, 3, 16, 37, 100]),
    outputs=st.sampled_from([1, 6, 13, 64]),
    rank=st.sampled_from([1, 4, 17, 33]),
    width=st.sampled_from([1, 5, 20]),
    pool=st.integers(1, 3),
    size=st.sampled_from([(1, 1), (2, 5), (7, 7), (20, 33)]),
    given_parts=st.tuples(st.booleans(), st.booleans()),
)
def test_one_call_is_the_branch_and_the_products(
    instructions, threads, batch, channels, outputs, rank, width, pool, size, given_parts
):
    g = torch.Generator().manual_seed(channels + batch)
    make = lambda *shape: torch.randn(*shape, generator=g) / math.sqrt(shape[-1])  # noqa: E731
    x = make(batch, channels, *size)
    weights = native.LowRankWeights(
        squeeze=make(width, channels * pool**2),
        gate=make(width, width),
        predict=make(outputs + rank**2, width),
        predict_bias=make(outputs + rank**2),
        expand=make(outputs, rank),
        expand_bias=make(outputs) if given_parts[0] else None,
        reduce=make(rank, channels),
        reduce_bias=make(rank),
        bias=make(outputs) if given_parts[1] else None,
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = native.low_rank(x, weights, pool, instructions)
    finally:
        torch.set_num_threads(before)
    exact = native.LowRankWeights(*[None if tensor is None else tensor.double() for tensor in weights])
    squeezed = F.adaptive_avg_pool2d(x.double(), pool).flatten(1) @ exact.squeeze.t()
    predicted = F.linear(squeezed * hard_sigmoid2(squeezed @ exact.gate.t()), exact.predict, exact.predict_bias)
    scale, phi = hard_sigmoid2(predicted[:, :outputs]), predicted[:, outputs:].view(batch, rank, rank)
    shift = (phi @ exact.reduce_bias) @ exact.expand.t()
    shift = shift if exact.expand_bias is None else shift + exact.expand_bias
    shift = shift if exact.bias is None else shift + scale * exact.bias
    assert found is not None
    for part, expected in zip(found, (scale, exact.expand @ phi, shift), strict=True):
        torch.testing.assert_close(part, expected.float(), rtol=1e-3, atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    instructions=st.sampled_from(native.instruction_sets() or ("none",)),
    threads=st.integers(1, 2),
    batch=st.integers(1, 4),
    channels=st.sampled_from([2, 3, 16, 37, 200, 700]),
    outputs=st.sampled_from([1, 6, 13, 64]),
    rank=st.sampled_from([1, 4, 17]),
    kernel=st.sampled_from([(1, 1), (1, 1), (3, 3), (2, 1)]),
    stride=st.integers(1, 2),
    size=st.sampled_from([(3, 3), (4, 5), (7, 7), (20, 33)]),
    activation=st.sampled_from(native.ACTIVATIONS),
    bias=st.booleans(),
)
def test_one_call_is_the_layer(
    instructions, threads, batch, channels, outputs, rank, kernel, stride, size, activation, bias
):
    g = torch.Generator().manual_seed(channels + outputs)
    make = lambda *shape: torch.randn(*shape, generator=g) / math.sqrt(shape[1] if len(shape) > 1 else 1)  # noqa: E731
    x, static = torch.randn(batch, channels, *size, generator=g), make(outputs, channels, *kernel)
    weights = native.LowRankWeights(
        squeeze=make(5, channels),
        gate=make(5, 5),
        predict=make(outputs + rank**2, 5),
        predict_bias=make(outputs + rank**2),
        expand=make(outputs, rank, 1, 1),
        expand_bias=make(outputs),
        reduce=make(rank, channels, 1, 1),
        reduce_bias=make(rank),
        bias=make(outputs) if bias else None,
    )
    geometry = Geometry((stride, stride), (kernel[0] // 2, kernel[1] // 2), (1, 1), 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer = native.low_rank_layer(batch, size, tuple(static.shape), geometry, 5, rank, 1, activation, instructions)
        assert layer is not None
        found = layer(x, static, weights)
        scale, up, shift = native.low_rank(x, weights, 1, instructions)
    finally:
        torch.set_num_threads(before)
    wide = static.double() * scale.double()[:, :, None, None, None]
    wide[..., (kernel[0] - 1) // 2, (kernel[1] - 1) // 2] += up.double() @ weights.reduce.double().flatten(1)
    each = [F.conv2d(x[b : b + 1].double(), wide[b], shift[b].double(), *geometry) for b in range(batch)]
    expected = {"relu": F.relu, "relu6": F.relu6}.get(activation, lambda y: y)(torch.cat(each))
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)


def fused_layer(*arguments, **options) -> nn.Module:
    layer = get_layer("dcd")(*arguments, **options).eval().requires_grad_(False)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    for norm in (layer.bn1, layer.bn2):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    layer.fuse_branch()
    return layer.requires_grad_(False)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([(8, 8), (8, 24), (40, 12)]),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, "same"]),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 4]),
    mode=st.sampled_from(["zeros", "reflect"]),
    bias=st.booleans(),
    batch=st.integers(1, 3),
    size=st.sampled_from([(6, 6), (9, 8), (7, 20)]),
)
def test_a_layer_computes_the_same_with_and_without(
    channels, kernel, stride, padding, dilation, groups, mode, bias, batch, size
):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode}
    layer = fused_layer(*channels, kernel, bias=bias, **options)
    x = torch.randn(batch, channels[0], *size)
    found = layer(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda: False)
        torch.testing.assert_close(found, layer(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", [1, 3])
def test_where_modules_have_to_be_called_they_are(kernel, monkeypatch):
    calls = []
    original = native.LowRankLayer.__call__
    record = lambda self, *args: calls.append(args) or original(self, *args)  # noqa: E731
    monkeypatch.setattr(native.LowRankLayer, "__call__", record)
    x = torch.randn(1, 8, 5, 5)
    layer = fused_layer(8, 12, kernel, padding=kernel // 2)
    expected = layer(x)
    assert len(calls) == 1
    others = [
        lambda: layer(x.clone().requires_grad_()),
        lambda: layer(x.to(memory_format=torch.channels_last)),
        lambda: layer(x, layer.coefficients(x)),
        lambda: torch.vmap(lambda one: layer(one[None])[0])(x),
    ]
    for call in others:
        torch.testing.assert_close(call(), expected, rtol=1e-3, atol=1e-4)
        assert len(calls) == 1
    seen = []
    handle = layer.branch.gate.register_forward_hook(lambda *_: seen.append(1))
    layer(x)
    handle.remove()
    handle = layer.branch.register_forward_hook(lambda *_: seen.append(2))
    layer(x)
    handle.remove()
    assert seen == [1, 2] and len(calls) == 1
    layer(x)
    assert len(calls) == 2
    layer(x.expand(9, -1, -1, -1).contiguous())  # the library is faster
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["weight", "conv_q.weight", "conv_q.bias", "conv_p.weight", "branch.fused_fc.weight"])
def test_weights_changed_in_place_are_seen(name):
    layer, x = fused_layer(8, 8, 1), torch.randn(2, 8, 9, 9)
    before = layer(x)
    layer.get_parameter(name).mul_(1.5)
    after = layer(x)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, layer(x.clone().requires_grad_()).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_reach_the_output_of_their_sample_only(value):
    layer, x = fused_layer(8, 8, 1), torch.randn(2, 8, 9, 9)
    expected = layer(x)[0]
    x[1, 3, 2, 2] = value
    found = layer(x)
    torch.testing.assert_close(found[0], expected)
    assert not found[1].isfinite().any()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("branch.gate.weight", (2, 2)),
        ("weight", (8, 7, 3, 3)),
        ("weight", (8, 9, 3, 3)),
        ("weight", (7, 8, 3, 3)),
        ("conv_q.weight", (3, 8, 1, 1)),
        ("conv_p.weight", (8, 1, 1, 1)),
    ],
)
def test_parameters_that_do_not_fit_are_refused_as_before(name, shape):
    layer = fused_layer(8, 8, 3, padding=1)
    holder, _, last = name.rpartition(".")
    setattr(layer.get_submodule(holder), last, nn.Parameter(torch.zeros(shape), requires_grad=False))
    with pytest.raises((RuntimeError, ValueError)):
        layer(torch.randn(1, 8, 9, 9))
