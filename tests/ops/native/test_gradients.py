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
