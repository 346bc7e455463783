"""The compiled kernels agree with the library's convolution of each sample, in every instruction set of the machine."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dyvision.ops import dynamic_conv2d, formulation, mixture_conv2d, native
from dyvision.ops.geometry import Geometry

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


@st.composite
def cases(draw: st.DrawFn) -> dict:
    groups = draw(st.sampled_from([1, 1, 2, 5]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2), (5, 5)]))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    return {
        "instructions": draw(st.sampled_from(native.instruction_sets() or ("none",))),
        "threads": draw(st.integers(1, 2)),
        "batch": draw(st.integers(1, 5)),
        "kernels": draw(st.integers(1, 9)),
        # more rows than fit into the registers, and into one tile; channels of more than one block
        "inputs": groups * draw(st.sampled_from([1, 2, 7, 16, 50, 390])),
        "outputs": groups * draw(st.sampled_from([1, 3, 6, 8, 17, 55])),
        "kernel": kernel,
        "size": tuple(draw(st.sampled_from([s, s + 1, s + 4, s + 12, s + 30])) for s in smallest),
        "geometry": Geometry(draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), padding, dilation, groups),
        "per_channel": draw(st.booleans()),
        "factors": draw(st.sampled_from(["taps", "channels and taps", "none"])),
        "bias": draw(st.sampled_from(native.BIASES)),
        "activation": draw(st.sampled_from(native.ACTIVATIONS)),
        "seed": draw(st.integers(0, 1000)),
    }


def one_by_one(x, weight, bias, geometry: Geometry, activation: str) -> torch.Tensor:
    """The library's convolution of each sample in double precision."""
    rows = [
        F.conv2d(sample[None].double(), kernel.double(), None if shift is None else shift.double(), *geometry)
        for sample, kernel, shift in zip(x, weight, bias or [None] * len(x), strict=True)
    ]
    output = torch.cat(rows)
    return {"none": output, "relu": output.relu(), "relu6": F.relu6(output)}[activation].float()


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_what_is_computed_is_the_convolution(case: dict) -> None:
    g = torch.Generator().manual_seed(case["seed"])
    make = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
    torch.set_num_threads(case["threads"])
    batch, count, outputs, geometry = case["batch"], case["kernels"], case["outputs"], case["geometry"]
    shape = (outputs, case["inputs"] // geometry.groups, *case["kernel"])
    x, bank = make(batch, case["inputs"], *case["size"]), make(count, *shape) / math.sqrt(math.prod(shape[1:]))
    mix = make(batch, count, outputs) if case["per_channel"] else make(batch, count)
    each = mix if case["per_channel"] else mix[:, :, None].expand(-1, -1, outputs)
    by_channel = case["factors"] == "channels and taps"
    weight = torch.einsum("bko,koihw->boihw", each.double(), bank.double())
    factors = None if case["factors"] == "none" else make(batch, *shape[1:]) if by_channel else make(batch, *shape[2:])
    if factors is not None:
        weight = weight * (factors[:, None] if by_channel else factors[:, None, None])
    kind = case["bias"]
    bias = {"none": None, "channels": make(outputs), "samples": make(batch, outputs), "kernels": make(count, outputs)}
    shifts = {
        "none": None,
        "channels": [bias["channels"]] * batch,
        "samples": bias["samples"],
        "kernels": torch.einsum("bko,ko->bo", each, bias["kernels"]),
    }
    shift = None if kind == "none" else list(shifts[kind])
    expected = one_by_one(x, weight, shift, geometry, case["activation"])
    options = {"activation": case["activation"], "instructions": case["instructions"]}
    mixed = native.convolution(
        batch, case["size"], shape, geometry, count, case["per_channel"], bias=kind, by_channel=by_channel, **options
    )
    found = mixed(x, bank, mix, bias[kind], factors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if kind != "kernels":
        kernels = native.convolution(batch, case["size"], shape, geometry, bias=kind, **options)
        found = kernels(x, weight.float(), None, bias[kind])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("instructions", native.instruction_sets())
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "size", "stride", "groups"),
    [
        (512, 96, 3, 7, 1, 1),  # a bank that is read ahead, and once for several samples
        (160, 200, 1, 7, 1, 1),
        (24, 144, 1, 56, 1, 1),
        (64, 64, 3, 28, 1, 1),
        (32, 64, 3, 56, 2, 1),
        (48, 48, 3, 14, 1, 8),
        (96, 96, 3, 28, 2, 96),
        (40, 40, 5, 14, 1, 40),
        (3, 16, 3, 64, 2, 1),
    ],
)
def test_layers_of_networks(instructions, threads, batch, channels, outputs, kernel, size, stride, groups) -> None:
    torch.set_num_threads(threads)
    geometry = Geometry((stride, stride), (kernel // 2,) * 2, (1, 1), groups)
    shape = (outputs, channels // groups, kernel, kernel)
    x, bank, mix = torch.randn(batch, channels, size, size), torch.randn(4, *shape), torch.rand(batch, 4).softmax(1)
    bank /= math.sqrt(math.prod(shape[1:]))
    convolve = native.convolution(batch, (size, size), shape, geometry, 4, instructions=instructions)
    expected = one_by_one(x, torch.einsum("bk,koihw->boihw", mix, bank), None, geometry, "none")
    torch.testing.assert_close(convolve(x, bank, mix), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("instructions", native.instruction_sets())
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("activation", native.ACTIVATIONS)
def test_numbers_that_are_not_finite_go_where_torch_lets_them(instructions, value, activation) -> None:
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    x, bank, mix = torch.randn(2, 20, 9, 9), torch.randn(3, 7, 20, 3, 3), torch.rand(2, 3)
    options = {"activation": activation, "instructions": instructions}
    convolve = native.convolution(2, (9, 9), (7, 20, 3, 3), geometry, 3, **options)
    where = {"input": x, "kernels": bank, "coefficients": mix}
    for name, tensor in where.items():
        changed = tensor.clone()
        changed.view(-1)[5] = value
        x_, bank_, mix_ = ({**where, name: changed}[n] for n in where)
        expected = one_by_one(x_, torch.einsum("bk,koihw->boihw", mix_, bank_), None, geometry, activation)
        found = convolve(x_, bank_, mix_)
        assert torch.equal(found.isnan(), expected.isnan()), name
        assert torch.equal(found.isinf(), expected.isinf()), name
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_nothing_is_read_or_written_beside_the_tensors() -> None:
    """Neighbours of every tensor in one piece of memory stay, and do not matter."""
    geometry = Geometry((1, 1), (0, 0), (1, 1), 1)
    for instructions in native.instruction_sets():
        for size, kernel in ((5, 1), (6, 1), (5, 3)):
            shape = (7, 5, kernel, kernel)
            convolve = native.convolution(2, (size, size), shape, geometry, 3, instructions=instructions)
            results = []
            for filling in (0.0, math.nan):
                torch.manual_seed(0)
                parts = []
                for numbers in ((2, 5, size, size), (3, *shape), (2, 3)):
                    around = torch.full((math.prod(numbers) + 64,), filling)
                    parts.append(around[32:-32].view(numbers))
                    parts[-1].copy_(torch.randn(numbers))
                results.append(convolve(*parts))
            assert torch.equal(*results)


def test_both_operators_use_them_and_agree_with_the_library() -> None:
    x, bank, mix = torch.randn(2, 12, 9, 9), torch.randn(4, 8, 12, 3, 3), torch.rand(2, 4, 8)
    bias, taps = torch.randn(4, 8), torch.rand(2, 3, 3)
    for padding, stride in ((1, 1), ("same", 2)):
        with formulation("grouped"):
            expected = mixture_conv2d(x, bank, mix, bias, stride, padding, taps=taps)
        with formulation("native"):
            torch.testing.assert_close(mixture_conv2d(x, bank, mix, bias, stride, padding, taps=taps), expected)
        weight = torch.randn(2, 8, 12, 3, 3)
        with formulation("grouped"):
            expected = dynamic_conv2d(x, weight, bias[:2], stride, padding)
        with formulation("native"):
            torch.testing.assert_close(
                dynamic_conv2d(x, weight, bias[:2], stride, padding), expected, rtol=1e-4, atol=1e-4
            )
