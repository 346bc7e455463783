"""The compiled backward passes agree with autograd in double precision, in every instruction set of the machine."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dyvision.ops import native
from dyvision.ops.geometry import Geometry

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


@st.composite
def cases(draw: st.DrawFn) -> dict:
    depthwise = draw(st.sampled_from([False, False, True]))
    groups = draw(st.sampled_from([2, 17, 33])) if depthwise else draw(st.sampled_from([1, 1, 2, 5]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2), (5, 5), (2, 3), (7, 7)]))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    return {
        "instructions": draw(st.sampled_from(native.instruction_sets() or ("none",))),
        "threads": draw(st.integers(1, 2)),
        "batch": draw(st.integers(1, 5)),
        "kernels": draw(st.sampled_from([0, 1, 2, 4, 9])),
        # channels of several tasks, rows of several tiles
        "inputs": groups * (1 if depthwise else draw(st.sampled_from([1, 2, 7, 16, 50, 150]))),
        "outputs": groups * (1 if depthwise else draw(st.sampled_from([1, 3, 6, 8, 17, 130]))),
        "kernel": kernel,
        "size": tuple(draw(st.sampled_from([s, s + 1, s + 4, s + 12, s + 30])) for s in smallest),
        "geometry": Geometry(draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), padding, dilation, groups),
        "per_channel": draw(st.booleans()),
        "factors": draw(st.sampled_from(["taps", "channels and taps", "none"])),
        "seed": draw(st.integers(0, 1000)),
    }


def tensors_of(case: dict) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Input, kernels, coefficients, factors, and the gradient of the output."""
    g = torch.Generator().manual_seed(case["seed"])
    make = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
    batch, count, geometry = case["batch"], case["kernels"], case["geometry"]
    shape = (case["outputs"], case["inputs"] // geometry.groups, *case["kernel"])
    x = make(batch, case["inputs"], *case["size"])
    kernels = make(count or batch, *shape) / math.sqrt(math.prod(shape[1:]))
    mix = make(batch, count, case["outputs"]) if case["per_channel"] else make(batch, count)
    kind = case["factors"] if count else "none"
    factors = {"none": None, "taps": make(batch, *case["kernel"])}.get(kind, make(batch, *shape[1:]))
    grad = make(batch, case["outputs"], *geometry.output_size(case["size"], case["kernel"]))
    return x, kernels, mix if count else None, factors, grad


def reference(
    x: Tensor, kernels: Tensor, mix: Tensor | None, factors: Tensor | None, grad: Tensor, geometry: Geometry
) -> list[Tensor | None]:
    """Gradients by autograd of the library's convolution of each sample, in double precision."""
    given = [None if t is None else t.double().requires_grad_() for t in (x, kernels, mix, factors)]
    x, kernels, mix, factors = given
    weight = kernels
    if mix is not None:
        each = mix if mix.ndim == 3 else mix[:, :, None].expand(-1, -1, kernels.shape[1])
        weight = torch.einsum("bko,koihw->boihw", each, kernels)
    if factors is not None:
        weight = weight * (factors[:, None] if factors.ndim == 4 else factors[:, None, None])
    output = torch.cat([F.conv2d(x[b : b + 1], weight[b], None, *geometry) for b in range(len(x))])
    found = iter(torch.autograd.grad(output, [t for t in given if t is not None], grad.double()))
    return [None if t is None else next(found) for t in given]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def check(found: tuple, expected: list, numbers: int) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            scale = float(theirs.abs().max()) + 1.0
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=2e-6 * scale * math.sqrt(numbers))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_gradients_are_those_of_the_convolution(case: dict) -> None:
    torch.set_num_threads(case["threads"])
    *tensors, grad = tensors_of(case)
    found = native.gradients(grad, *tensors, case["geometry"], [True] * 4, instructions=case["instructions"])
    check(found, reference(*tensors, grad, case["geometry"]), 10)


@pytest.mark.parametrize("instructions", native.instruction_sets())
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("batch", "channels", "outputs", "kernel", "size", "stride", "groups", "factors"),
    [
        (5, 130, 70, 3, 4, 1, 1, "channels and taps"),  # few pixels, several tiles and samples at a time
        (16, 64, 40, 3, 8, 1, 1, "none"),
        (2, 20, 64, 3, 40, 1, 1, "taps"),  # one sample at a time
        (3, 300, 24, 1, 7, 1, 1, "channels and taps"),
        (4, 24, 30, 1, 16, 2, 1, "none"),
        (9, 48, 48, 3, 7, 1, 8, "taps"),
        (3, 40, 40, 3, 30, 2, 40, "none"),
        (2, 3, 16, 7, 32, 2, 1, "none"),
    ],
)
def test_layers_of_networks(
    instructions, threads, batch, channels, outputs, kernel, size, stride, groups, factors
) -> None:
    torch.set_num_threads(threads)
    geometry = Geometry((stride, stride), (kernel // 2,) * 2, (1, 1), groups)
    case = {"batch": batch, "inputs": channels, "outputs": outputs, "kernel": (kernel, kernel), "size": (size, size)}
    for count, per_channel in ((4, False), (3, True), (0, False)):
        options = {"kernels": count, "per_channel": per_channel, "factors": factors, "geometry": geometry, "seed": 1}
        *tensors, grad = tensors_of({**case, **options})
        expected = reference(*tensors, grad, geometry)
        found = native.gradients(grad, *tensors, geometry, [True] * 4, instructions)
        check(found, expected, 10)
        again = native.gradients(grad, *tensors, geometry, [True] * 4, instructions)
        assert all(a is b or torch.equal(a, b) for a, b in zip(found, again, strict=True))
        for index in range(4):  # each by itself
            wanted = [i == index for i in range(4)]
            alone = native.gradients(grad, *tensors, geometry, wanted, instructions)
            check(alone, [value if want else None for value, want in zip(expected, wanted, strict=True)], 10)


@pytest.mark.parametrize("instructions", native.instruction_sets())
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("channels", "groups", "stride"), [(20, 1, 1), (20, 1, 2), (20, 20, 1), (20, 20, 2)])
def test_numbers_that_are_not_finite_go_where_torch_lets_them(instructions, value, channels, groups, stride) -> None:
    geometry = Geometry((stride, stride), (1, 1), (1, 1), groups)
    outputs = channels if groups > 1 else 7
    case = {"batch": 2, "inputs": channels, "outputs": outputs, "kernel": (3, 3), "size": (9, 9), "seed": 0}
    options = {"geometry": geometry, "per_channel": False, "factors": "none", "kernels": 0 if groups > 1 else 3}
    *tensors, grad = tensors_of({**case, **options})
    for place in range(2 if groups > 1 else 3):
        changed = [None if t is None else t.clone() for t in (*tensors, grad)]
        changed[place].view(-1)[5] = value
        *given, last = changed
        expected = reference(*given, last, geometry)
        for ours, theirs in zip(
            native.gradients(last, *given, geometry, [True] * 4, instructions), expected, strict=True
        ):
            if theirs is not None:
                assert torch.equal(ours.isfinite(), theirs.isfinite()), place
                torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_nothing_is_read_or_written_beside_the_tensors() -> None:
    """Neighbours of every tensor in one piece of memory stay, and do not matter."""
    for instructions in native.instruction_sets():
        for size, kernel, channels, groups in ((5, 1, 5, 1), (6, 1, 70, 1), (5, 3, 9, 1), (7, 3, 9, 9)):
            geometry, shape = Geometry((1, 1), (0, 0), (1, 1), groups), (9, channels // groups, kernel, kernel)
            results = []
            for filling in (0.0, math.nan):
                torch.manual_seed(0)
                parts = []
                count = 2 if groups > 1 else 3
                sizes = ((2, 9, *[size - kernel + 1] * 2), (2, channels, size, size), (count, *shape), (2, 3))
                for numbers in sizes:
                    around = torch.full((math.prod(numbers) + 64,), filling)
                    parts.append(around[32:-32].view(numbers))
                    parts[-1].copy_(torch.randn(numbers))
                parts[3] = None if groups > 1 else parts[3]
                results.append(native.gradients(*parts, None, geometry, [True] * 3 + [False], instructions))
            assert all(a is b or torch.equal(a, b) for a, b in zip(*results, strict=True))
