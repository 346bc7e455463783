"""Pooling and linear layers of a branch in one call are what the layers give one by one, or the layers are called."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dyvision.layers import get_layer
from dyvision.layers.dyconv import DyConvAttention
from dyvision.ops import native
from dyvision.ops.perceptron import pooled_perceptron

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


@settings(max_examples=100, deadline=None)
@given(
    instructions=st.sampled_from(native.instruction_sets() or ("none",)),
    threads=st.integers(1, 2),
    batch=st.integers(1, 9),
    channels=st.sampled_from([1, 3, 16, 37, 320]),
    size=st.sampled_from([(1, 1), (3, 5), (7, 7), (30, 41)]),
    hidden=st.sampled_from([0, 1, 4, 33]),
    outputs=st.sampled_from([1, 4, 50]),
    biases=st.tuples(st.booleans(), st.booleans()),
)
def test_one_call_is_the_layers(instructions, threads, batch, channels, size, hidden, outputs, biases):
    g = torch.Generator().manual_seed(channels + batch)
    make = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    x = make(batch, channels, *size)
    first = (make(hidden, channels), make(hidden) if biases[0] else None) if hidden else None
    second = (make(outputs, hidden or channels), make(outputs) if biases[1] else None)
    expected = x.mean((2, 3)).double()
    for layer in (first, second):
        if layer is not None:
            weight, bias = layer
            expected = F.linear(expected, weight.double(), None if bias is None else bias.double())
            expected = expected.relu() if layer is first else expected
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = native.perceptron(x, first, second, instructions=instructions)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("instructions", native.instruction_sets())
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_go_where_torch_lets_them(instructions, value):
    x, weight, last = torch.randn(2, 20, 5, 5), torch.randn(6, 20), torch.randn(3, 6)
    x[1, 7, 2, 2] = value
    expected = F.linear(F.linear(x.mean((2, 3)), weight).relu(), last)
    found = native.perceptron(x, (weight, None), (last, None), instructions=instructions)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def layers() -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(8, 5).requires_grad_(False), nn.Linear(5, 3).requires_grad_(False)


def test_where_layers_have_to_be_called_they_are():
    first, second = layers()
    x = torch.randn(2, 8, 4, 4)
    assert pooled_perceptron(x, first, second) is not None
    assert pooled_perceptron(x, None, nn.Linear(8, 3)) is None  # its gradient is wanted
    with torch.no_grad():
        assert pooled_perceptron(x, None, nn.Linear(8, 3)) is not None
    assert pooled_perceptron(x.requires_grad_(), first, second) is None
    x = x.detach()
    assert pooled_perceptron(x.to(memory_format=torch.channels_last), first, second) is None
    assert pooled_perceptron(x.double(), first.double(), second.double()) is None
    assert pooled_perceptron(x, first.float(), second.half()) is None
    assert pooled_perceptron(x[:0], first, second.float()) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert pooled_perceptron(x, first, second) is None
    seen = []

    def inside(x: torch.Tensor) -> torch.Tensor:
        seen.append(pooled_perceptron(x, first, second))
        return x

    torch.vmap(inside)(x[:, None])
    torch.compile(inside, backend="eager")(x)
    assert seen == [None, None]


@pytest.mark.parametrize("name", ["dyconv", "odconv", "condconv", "dynet", "weightnet", "dcd", "kernelwarehouse"])
@pytest.mark.parametrize("fused", [False, True])
def test_layers_predict_the_same_with_and_without(name, fused, monkeypatch):
    layer = get_layer(name)(16, 16, 3, padding=1).eval()
    x = torch.randn(3, 16, 6, 6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        if fused:
            layer.fuse_branch()
            layer.fused = True
        found = layer(x)
        monkeypatch.setattr(native, "available", lambda: False)
        torch.testing.assert_close(found, layer(x), rtol=1e-3, atol=1e-4)


def test_hooks_and_classes_of_ones_own_are_called():
    called = []

    class Doubled(DyConvAttention):
        def predict(self, pooled):
            return 2 * super().predict(pooled)

    class Pooled(DyConvAttention):
        def _pool(self, x):
            return x.amax((2, 3))

    class Other(type(DyConvAttention(8, 4, 0.5).fc1)):
        def forward(self, input):
            called.append("class")
            return super().forward(input)

    x = torch.randn(2, 8, 5, 5)
    branch, doubled, pooled = (kind(8, 4, 0.5) for kind in (DyConvAttention, Doubled, Pooled))
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_()
        doubled.load_state_dict(branch.state_dict())
        pooled.load_state_dict(branch.state_dict())
        expected = branch(x)
        torch.testing.assert_close(doubled(x), 2 * expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pooled(x), branch.predict(x.amax((2, 3))))
        handle = branch.fc1.register_forward_hook(lambda *_: called.append("hook"))
        torch.testing.assert_close(branch(x), expected, rtol=1e-4, atol=1e-5)
        handle.remove()
        branch.fc2.__class__ = Other
        torch.testing.assert_close(branch(x), expected, rtol=1e-4, atol=1e-5)
    assert called == ["hook", "class"]


def test_hooks_of_all_modules_and_replaced_methods_are_called():
    branch, x, called = DyConvAttention(8, 4, 0.5), torch.randn(2, 8, 5, 5), []
    with torch.no_grad():
        expected = branch(x)
        handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(module))
        try:
            torch.testing.assert_close(branch(x), expected, rtol=1e-4, atol=1e-5)
        finally:
            handle.remove()
        assert branch.fc1 in called and branch.fc2 in called
        branch.fc1.forward = torch.zeros_like
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # 8 numbers instead of the 4
            branch(x)


def test_a_bias_of_another_size_is_the_layers_affair():
    first, second = layers()
    x = torch.randn(2, 8, 4, 4)
    second.bias = nn.Parameter(torch.ones(1), requires_grad=False)  # which the library repeats
    assert pooled_perceptron(x, first, second) is None
    first.bias = nn.Parameter(torch.ones(9), requires_grad=False)
    assert pooled_perceptron(x, first, layers()[1]) is None


def test_weights_that_are_sparse_are_multiplied_by_the_library():
    branch, x = DyConvAttention(8, 4, 0.5), torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        expected = branch(x)
        branch.fc1.weight = nn.Parameter(branch.fc1.weight.to_sparse_csr())
        torch.testing.assert_close(branch(x), expected, rtol=1e-4, atol=1e-5)
