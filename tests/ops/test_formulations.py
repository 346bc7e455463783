"""All formulations of a per-sample convolution agree with a plain loop over samples, in values and in gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dyvision.ops import FORMULATIONS, dynamic_conv2d, formulation, mixture_conv2d


@st.composite
def shapes(draw: st.DrawFn) -> dict:
    groups = draw(st.integers(1, 3))
    return {
        "batch": draw(st.integers(1, 5)),
        "kernels": draw(st.integers(1, 9)),
        "groups": groups,
        "inputs": groups * draw(st.integers(1, 3)),
        "outputs": groups * draw(st.integers(1, 3)),
        "kernel": draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2)])),
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.sampled_from([0, 1, (0, 2)])),
        "dilation": draw(st.integers(1, 2)),
        "per_channel": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=40, deadline=None)
@given(shapes())
def test_mixtures_agree_with_a_loop_over_samples(shape: dict) -> None:
    g = torch.Generator().manual_seed(shape["seed"])
    make = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64).requires_grad_()  # noqa: E731
    x = make(shape["batch"], shape["inputs"], 7, 9)
    kernels = make(shape["kernels"], shape["outputs"], shape["inputs"] // shape["groups"], *shape["kernel"])
    size = (shape["batch"], shape["kernels"], *([shape["outputs"]] if shape["per_channel"] else []))
    coefficients, bias = make(*size), make(shape["kernels"], shape["outputs"])
    geometry = {name: shape[name] for name in ("stride", "padding", "dilation", "groups")}

    rows = []
    for sample, row in zip(x, coefficients, strict=True):
        each = row if shape["per_channel"] else row[:, None].expand(-1, shape["outputs"])
        weight = (each[:, :, None, None, None] * kernels).sum(0)
        rows.append(F.conv2d(sample[None], weight, (each * bias).sum(0), **geometry))
    expected = torch.cat(rows)
    seed = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * seed).sum(), (x, kernels, coefficients, bias))
    for name in FORMULATIONS:
        with formulation(name):
            found = mixture_conv2d(x, kernels, coefficients, bias, **geometry)
        torch.testing.assert_close(found, expected)
        for a, b in zip(
            torch.autograd.grad((found * seed).sum(), (x, kernels, coefficients, bias)), wanted, strict=True
        ):
            torch.testing.assert_close(a, b)


def test_same_padding_is_tensorflows() -> None:
    x, w = torch.randn(2, 3, 7, 8), torch.randn(2, 4, 3, 3, 3)
    found = dynamic_conv2d(x, w, stride=2, padding="same")
    assert found.shape == (2, 4, 4, 4)
    padded = F.pad(x, (0, 1, 1, 1))  # even width: one zero on the right only
    torch.testing.assert_close(found, dynamic_conv2d(padded, w, stride=2))


X, W = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: dynamic_conv2d(X, W[:1].repeat(3, 1, 1, 1, 1)), ValueError, "2 samples.*has 3"),
        (lambda: dynamic_conv2d(X, W, groups=3), ValueError, "groups must divide"),
        (lambda: dynamic_conv2d(X, W, groups=2), ValueError, "8 input channels.*input has 4"),
        (lambda: dynamic_conv2d(X.long(), W), TypeError, "input must be floating point"),
        (lambda: dynamic_conv2d(X[:0], W[:0]), ValueError, "empty batch"),
        (lambda: dynamic_conv2d(X, W, torch.zeros(6)), ValueError, r"bias must be \[B, C_out\]"),
        (lambda: dynamic_conv2d(X, W, padding="full"), ValueError, "'same', 'valid'"),
        (lambda: dynamic_conv2d(X, W, dilation=4), ValueError, "less than the kernel"),
        (lambda: dynamic_conv2d(X, W, stride=0), ValueError, "stride must be"),
        (lambda: mixture_conv2d(X, W, torch.zeros(2, 3)), ValueError, r"coefficients must be \[B, K\]"),
        (lambda: dynamic_conv2d(X, W.to("meta")), ValueError, "weight is on meta"),
    ],
)
def test_errors_name_the_argument(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


def test_unknown_formulation_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'grouped'"), formulation("groups"):
        pass


def test_gradcheck() -> None:
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: dynamic_conv2d(x, w, padding=1), (x, w))
