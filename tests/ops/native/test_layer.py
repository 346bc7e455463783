"""If these fail, a layer that is one native call computes something else than its branch and its convolution."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dyvision.layers import get_layer
from dyvision.ops import formulation, native, predicted
from dyvision.ops.geometry import Geometry

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")

ACTIVATIONS = {"none": lambda y: y, "relu": F.relu, "relu6": F.relu6}


@settings(max_examples=150, deadline=None)
@given(
    instructions=st.sampled_from(native.instruction_sets() or ("none",)),
    threads=st.integers(1, 2),
    batch=st.integers(1, 5),
    groups=st.sampled_from([1, 1, 2, 5]),
    depth=st.sampled_from([1, 3, 17, 40]),
    rows=st.sampled_from([1, 2, 7, 26]),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 2)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    size=st.sampled_from([(5, 5), (7, 7), (9, 12), (6, 31), (14, 14)]),
    hidden=st.sampled_from([0, 1, 6]),
    kinds=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    count=st.integers(1, 5),
    bias=st.sampled_from(["none", "channels", "kernels"]),
    activation=st.sampled_from(list(ACTIVATIONS)),
)
def test_a_layer_is_its_branch_its_gates_and_its_convolution(
    instructions,
    threads,
    batch,
    groups,
    depth,
    rows,
    kernel,
    stride,
    dilation,
    size,
    hidden,
    kinds,
    count,
    bias,
    activation,
):
    g = torch.Generator().manual_seed(depth + rows + batch)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    channels, outputs, taps = groups * depth, groups * rows, math.prod(kernel)
    gates = native.Gates(
        channel=channels if kinds[0] and (groups == 1 or depth == 1) else 0,
        filter=outputs if kinds[1] else 0,
        tap=taps if kinds[2] else 0,
        kernel=count,
        softmax=kinds[3],
    )
    geometry = Geometry((stride, stride), (1, 1), (dilation, dilation), groups)
    x, bank = make(batch, channels, *size), make(count, outputs, depth, *kernel) / math.sqrt(depth * taps)
    first, second = make(hidden, channels), make(gates.total, hidden or channels) / 2
    second_bias, shift = make(gates.total), {"none": None, "channels": make(outputs)}.get(bias, make(count, outputs))

    pooled = x.mean((2, 3))
    predicted_numbers = F.linear(F.relu(pooled @ first.t()) if hidden else pooled, second, second_bias)
    parts = predicted_numbers.split([gates.channel, gates.filter, gates.tap, gates.kernel], 1)
    channel, filters, tap = (torch.sigmoid(part) for part in parts[:3])
    mix = torch.softmax(parts[3], 1) if gates.softmax else torch.sigmoid(parts[3])
    weight = torch.einsum("bk,koihw->boihw", mix, bank)
    if gates.channel:
        weight = weight * (channel.view(batch, 1, -1, 1, 1) if groups == 1 else _by_group(channel, rows))
    weight = weight * filters.view(batch, -1, 1, 1, 1) if gates.filter else weight
    weight = weight * tap.view(batch, 1, 1, *kernel) if gates.tap else weight
    mixed = mix[:, :, None] * (filters[:, None] if gates.filter else 1)
    mixed = mixed * _by_group(channel, rows).view(batch, 1, -1) if gates.channel and groups > 1 else mixed
    shifts = (mixed * shift).sum(1) if bias == "kernels" else shift
    rows_of_bias = [None if shifts is None else shifts.expand(batch, -1)[b] for b in range(batch)]
    expected = torch.cat([F.conv2d(x[b : b + 1], weight[b], rows_of_bias[b], *geometry) for b in range(batch)])

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer = native.layer(
            batch, size, tuple(bank.shape[1:]), geometry, gates, hidden, bias, activation, instructions
        )
        assert layer is not None
        tensors = (x, bank, shift, first if hidden else None, None, second, second_bias)
        found = layer(*[None if tensor is None else tensor.float() for tensor in tensors])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, ACTIVATIONS[activation](expected).float(), rtol=1e-4, atol=1e-4)


def _by_group(channel: torch.Tensor, rows: int) -> torch.Tensor:
    return channel.repeat_interleave(rows, 1)[:, :, None, None, None]


@pytest.mark.parametrize("instructions", native.instruction_sets() or ("none",))
@pytest.mark.parametrize("softmax", [True, False])
def test_extreme_and_missing_numbers_are_those_of_torch(instructions, softmax):
    """Sigmoid and softmax of very large, infinite and undefined numbers."""
    geometry, count = Geometry((1, 1), (0, 0), (1, 1), 1), 19
    values = torch.tensor([0.0, -0.0, 1e-8, 1, -1, 20, -20, 86, -87, -88, 89, 100, -110, 1e4, -1e30, 3, 5, 7, -2])
    cases = [values, values.clone(), values.clone()]
    cases[1][3], cases[2][4] = math.inf, math.nan
    for logits in cases:
        gates = native.Gates(kernel=count, softmax=softmax)
        layer = native.layer(1, (1, 1), (1, 1, 1, 1), geometry, gates, instructions=instructions)
        assert layer is not None
        zeros = torch.zeros(count, 1)
        for kernel in range(count):  # one at a time: its weight is the output
            bank = torch.zeros(count, 1, 1, 1, 1)
            bank[kernel] = 1
            expected = torch.softmax(logits, 0) if softmax else torch.sigmoid(logits)
            found = layer(torch.ones(1, 1, 1, 1), bank, None, None, None, zeros, logits).view(())
            if softmax or not expected.isnan().any():
                torch.testing.assert_close(found, expected[kernel], rtol=3e-6, atol=1e-37, equal_nan=True)


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the inputs of layers that were one call."""
    seen = []
    original = predicted.native.Layer.__call__
    record = lambda self, x, *others: seen.append(x.shape) or original(self, x, *others)  # noqa: E731
    monkeypatch.setattr(predicted.native.Layer, "__call__", record)
    return seen


def prepared(name: str, **options) -> nn.Module:
    layer = get_layer(name)(8, 12, 3, padding=1, **options).eval().requires_grad_(False)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    layer.fuse_branch()
    layer.fused = True
    return layer.requires_grad_(False)


@pytest.mark.parametrize("name", ["condconv", "dyconv", "odconv"])
def test_the_branch_is_called_wherever_somebody_listens(name, calls):
    layer, x = prepared(name), torch.randn(1, 8, 6, 6)
    expected = layer(x)
    assert len(calls) == 1
    others = [
        lambda: layer(x.clone().requires_grad_()).detach(),
        lambda: layer(x.to(memory_format=torch.channels_last)),
        lambda: layer(x, layer.coefficients(x)),
        lambda: torch.vmap(lambda one: layer(one[None])[0])(x),
        lambda: layer.double()(x.double()).float(),
    ]
    for call in others:
        torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
    layer.float()
    with formulation("grouped"):
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert len(calls) == 1
    seen = []
    for module in (layer.branch, next(child for child in layer.branch.children() if isinstance(child, nn.Linear))):
        handle = module.register_forward_hook(lambda *_: seen.append(1))
        layer(x)
        handle.remove()
    assert len(seen) == 2 and len(calls) == 1
    chosen = layer.coefficients(torch.randn_like(x))
    layer.coefficients = lambda _: chosen  # what somebody puts in its place is asked
    torch.testing.assert_close(layer(x), layer(x, chosen))
    assert len(calls) == 1
    del layer.coefficients
    layer(x)
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["condconv", "dyconv", "odconv"])
def test_a_class_with_coefficients_of_its_own_is_asked(name, calls):
    base = get_layer(name)

    class Own(base):
        def coefficients(self, x):
            return super().coefficients(x * 0)

    layer = prepared(name)
    own = Own(8, 12, 3, padding=1).eval()
    own.branch, own.weight, own.bias, own.fused = layer.branch, layer.weight, layer.bias, True
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(own(x), layer(x, layer.coefficients(x * 0)))
    assert not calls


@pytest.mark.parametrize("name", ["condconv", "dyconv", "odconv"])
def test_changed_parameters_are_seen(name, calls):
    layer, x = prepared(name), torch.randn(1, 8, 6, 6)
    layer(x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.5)
        layer.weight.data = layer.weight.data.transpose(3, 4)  # the same memory, read in another order
    found = layer(x)
    assert len(calls) == 2
    torch.testing.assert_close(found, layer(x, layer.coefficients(x)), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        layer.branch.register_parameter("unused", None)
        layer.weight.data = layer.weight.data[:, :, :4]  # no longer those of one layer: nothing beside them is read
    with pytest.raises(ValueError, match="channels"):
        layer(x)
