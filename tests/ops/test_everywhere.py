"""Empty batches and transforms of ``torch.func`` through the operators, in float64 against plain operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dyvision.ops import FORMULATIONS, dynamic_conv2d, formulation, mixture_conv2d


@st.composite
def problems(draw):
    """Sizes, and the geometry of a convolution that has an output."""
    groups, kernel = draw(st.sampled_from([1, 2])), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    geometry = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 2)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
    }
    return draw(st.integers(0, 3)), 2 * groups, 4, kernel, geometry


def draw_tensors(batch, inputs, outputs, kernel, groups, count=None):
    first = batch if count is None else count
    x = torch.randn(batch, inputs, 6, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(first, outputs, inputs // groups, *kernel, dtype=torch.float64, requires_grad=True)
    return x, weight


def one_by_one(x, weight, geometry):
    rows = [F.conv2d(sample[None], kernel, **geometry) for sample, kernel in zip(x, weight, strict=True)]
    return torch.cat(rows) if rows else F.conv2d(x, weight.new_zeros(weight.shape[1:]), **geometry)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_gradients_and_transforms_agree_with_a_loop(problem) -> None:
    batch, inputs, outputs, kernel, geometry = problem
    x, weight = draw_tensors(batch, inputs, outputs, kernel, geometry["groups"])
    output, expected = dynamic_conv2d(x, weight, **geometry), one_by_one(x, weight, geometry)
    torch.testing.assert_close(output, expected)
    found = torch.autograd.grad(output.square().sum(), (x, weight))
    if batch == 0:
        assert [g.shape for g in found] == [x.shape, weight.shape]
        return
    for one, other in zip(found, torch.autograd.grad(expected.square().sum(), (x, weight)), strict=True):
        torch.testing.assert_close(one, other)
    tangents = torch.randn_like(x), torch.randn_like(weight)
    _, pushed = torch.func.jvp(lambda a, b: dynamic_conv2d(a, b, **geometry), (x, weight), tangents)
    _, other = torch.func.jvp(lambda a, b: one_by_one(a, b, geometry), (x, weight), tangents)
    torch.testing.assert_close(pushed, other)
    rows = torch.func.vmap(lambda a, b: dynamic_conv2d(a[None], b[None], **geometry)[0])(x, weight)
    torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize("name", FORMULATIONS)
@pytest.mark.parametrize("bias", [None, "mixed", "static"])
def test_an_empty_mixture_has_zero_gradients(name, bias) -> None:
    x, kernels = draw_tensors(0, 4, 6, (3, 3), 2, count=5)
    coefficients = torch.rand(0, 5, dtype=torch.float64, requires_grad=True)
    taps = torch.rand(0, 3, 3, dtype=torch.float64, requires_grad=True)
    shift = {None: None, "mixed": torch.randn(5, 6), "static": torch.randn(6)}[bias]
    shift = None if shift is None else shift.double().requires_grad_()
    with formulation(name):
        output = mixture_conv2d(x, kernels, coefficients, shift, 2, 1, 1, 2, taps=taps)
    assert output.shape == (0, 6, 3, 4)
    output.sum().backward()
    for tensor in (x, kernels, coefficients, taps, shift):
        assert tensor is None or (tensor.grad.shape == tensor.shape and not tensor.grad.any())


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_either_argument(dims) -> None:
    x, weight = torch.randn(2, 3, 4, 5, 5), torch.randn(2, 3, 6, 4, 3, 3)
    x, weight = (t if dim == 0 else t[0] for t, dim in zip((x, weight), dims, strict=True))
    bias = torch.randn(3, 6)
    found = torch.func.vmap(lambda a, b: dynamic_conv2d(a, b, bias, padding=1), dims)(x, weight)
    for index in range(2):
        a, b = (t[index] if dim == 0 else t for t, dim in zip((x, weight), dims, strict=True))
        torch.testing.assert_close(found[index], dynamic_conv2d(a, b, bias, padding=1), rtol=1e-4, atol=1e-5)


def test_kernels_in_any_order_of_memory_are_mixed_per_output_channel() -> None:
    x, coefficients = torch.randn(2, 4, 6, 6), torch.rand(2, 3, 5)
    kernels = torch.randn(3, 5, 3, 3, 4).movedim(4, 2)
    with torch.inference_mode():
        found, expected = (mixture_conv2d(x, k, coefficients) for k in (kernels, kernels.contiguous()))
    torch.testing.assert_close(found, expected)
