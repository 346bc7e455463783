"""All formulations of a per-sample convolution agree with a plain loop over samples, in values and in gradients."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dyvision.ops import FORMULATIONS, _call_cache, _tiling, dynamic_conv2d, formulation, mixture_conv2d
from dyvision.ops import kernels as mixing


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
        "taps": draw(st.booleans()),
        "bias": draw(st.sampled_from(["mixed", "static", "none"])),
        # bytes of kernels mixed at a time: one after the other, some, all
        "tile": draw(st.sampled_from([1, 300, 2**20])),
        # how one mixture per output channel is summed: all products at once, one after the other, as matrix products
        "sums": draw(st.sampled_from([(2**18, 0), (0, 3000), (0, 0)])),
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
    coefficients, mixed_bias, static_bias = (
        make(*size),
        make(shape["kernels"], shape["outputs"]),
        make(shape["outputs"]),
    )
    bias = {"mixed": mixed_bias, "static": static_bias, "none": None}[shape["bias"]]
    taps = make(shape["batch"], *shape["kernel"]) if shape["taps"] else None
    leaves = tuple(tensor for tensor in (x, kernels, coefficients, bias, taps) if tensor is not None)
    geometry = {name: shape[name] for name in ("stride", "padding", "dilation", "groups")}

    rows = []
    for index, (sample, row) in enumerate(zip(x, coefficients, strict=True)):
        each = row if shape["per_channel"] else row[:, None].expand(-1, shape["outputs"])
        weight = (each[:, :, None, None, None] * kernels).sum(0) * (1 if taps is None else taps[index])
        shift = (each * mixed_bias).sum(0) if bias is mixed_bias else bias
        rows.append(F.conv2d(sample[None], weight, shift, **geometry))
    expected = torch.cat(rows)
    seed = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * seed).sum(), leaves)
    in_cache, long = shape["sums"]
    _call_cache._calls.clear()  # they remember what the patched sizes decide
    for name in FORMULATIONS:
        with (
            formulation(name),
            patch.object(_tiling, "TILE_BYTES", shape["tile"]),
            patch.multiple(mixing, _IN_CACHE=in_cache, _LONG=long),
        ):
            found = mixture_conv2d(x, kernels, coefficients, bias, **geometry, taps=taps)
            gradients = torch.autograd.grad((found * seed).sum(), leaves)
            with torch.no_grad():
                torch.testing.assert_close(mixture_conv2d(x, kernels, coefficients, bias, **geometry, taps=taps), found)
        torch.testing.assert_close(found, expected)
        for gradient, value in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient, value)


@settings(max_examples=40, deadline=None)
@given(shapes())
def test_given_kernels_agree_with_a_loop_over_samples(shape: dict) -> None:
    g = torch.Generator().manual_seed(shape["seed"])
    x = torch.randn(shape["batch"], shape["inputs"], 7, 9, generator=g, dtype=torch.float64).requires_grad_()
    size = (shape["batch"], shape["outputs"], shape["inputs"] // shape["groups"], *shape["kernel"])
    weight = torch.randn(size, generator=g, dtype=torch.float64).requires_grad_()
    bias = torch.randn(size[:2], generator=g, dtype=torch.float64).requires_grad_()
    bias = None if shape["bias"] == "none" else bias
    geometry = {name: shape[name] for name in ("stride", "padding", "dilation", "groups")}
    biases = [None] * len(x) if bias is None else bias
    rows = [F.conv2d(x[b : b + 1], weight[b], biases[b], **geometry) for b in range(len(x))]
    expected, leaves = torch.cat(rows), (x, weight, *(() if bias is None else (bias,)))
    seed = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * seed).sum(), leaves)
    for name in FORMULATIONS:
        with formulation(name):
            found = dynamic_conv2d(x, weight, bias, **geometry)
            with torch.no_grad():
                torch.testing.assert_close(dynamic_conv2d(x, weight, bias, **geometry), expected)
        torch.testing.assert_close(found, expected)
        for gradient, value in zip(torch.autograd.grad((found * seed).sum(), leaves), wanted, strict=True):
            torch.testing.assert_close(gradient, value)


def test_what_is_remembered_of_a_call_is_of_such_calls_only() -> None:
    x, w, bias = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 4, 3, 3), torch.randn(2, 6)
    expected = torch.cat([F.conv2d(x[b : b + 1], w[b], bias[b], padding=1) for b in range(2)])
    for _ in range(2):
        before = x.clone()
        for padding in (1, (1, 1), [1, 1]):
            torch.testing.assert_close(dynamic_conv2d(x, w, bias, padding=padding), expected)
        for memory_format in (torch.channels_last, torch.contiguous_format):
            torch.testing.assert_close(
                dynamic_conv2d(x.contiguous(memory_format=memory_format), w, bias, padding=1), expected
            )
        every_second = torch.randn(2, 4, 5, 10)[..., ::2]
        torch.testing.assert_close(
            dynamic_conv2d(every_second, w, padding=1), dynamic_conv2d(every_second.contiguous(), w, padding=1)
        )
        assert dynamic_conv2d(x.double(), w.double(), padding=1).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert dynamic_conv2d(x, w, bias, padding=1).dtype == torch.bfloat16
        assert dynamic_conv2d(x, w.clone().requires_grad_(), bias, padding=1).requires_grad
        with pytest.raises(ValueError, match="weight is on meta"):
            dynamic_conv2d(x, w.to("meta"), bias, padding=1)
        with pytest.raises(TypeError, match="weight must be floating point"):
            dynamic_conv2d(x, w.long(), bias, padding=1)
        with pytest.raises(ValueError, match="groups must divide"):
            dynamic_conv2d(x, w, bias, padding=1, groups=3)
        assert torch.equal(x, before)


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


@pytest.mark.parametrize("name", ["grouped", "unfold", "loop"])
def test_first_and_second_derivatives(name) -> None:
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    c = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def given(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with formulation(name):
            return dynamic_conv2d(x, w, padding=1)

    def mixed(x: torch.Tensor, w: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        with formulation(name):
            return mixture_conv2d(x, w, c, padding=1)

    assert torch.autograd.gradcheck(given, (x, w)) and torch.autograd.gradcheck(mixed, (x, w, c))
    assert torch.autograd.gradgradcheck(given, (x, w)) and torch.autograd.gradgradcheck(mixed, (x, w, c))


def test_mixed_kernels_are_not_kept_for_the_backward_pass() -> None:
    x, kernels = torch.randn(8, 16, 6, 6, requires_grad=True), torch.randn(4, 32, 16, 3, 3, requires_grad=True)
    coefficients = torch.rand(8, 4, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mixture_conv2d(x, kernels, coefficients, padding=1)
    assert sum(kept.values()) == x.numel() + kernels.numel() + coefficients.numel()


@pytest.mark.parametrize("name", ["grouped", "matmul", "unfold", "loop", "shifted", "mix_outputs"])
@pytest.mark.parametrize("groups", [1, 4])
def test_bfloat16_and_channels_last_are_float32s_up_to_rounding(name, groups) -> None:
    x, kernels, coefficients = torch.randn(3, 4, 6, 5), torch.randn(2, 8, 4 // groups, 3, 3), torch.rand(3, 2)
    with formulation("loop"):
        expected = mixture_conv2d(x, kernels, coefficients, padding=1, groups=groups)
    # a sum of 36 products, each operand rounded to 8 bits
    tolerance = 2**-8 * float(expected.abs().max())
    for memory_format in (torch.contiguous_format, torch.channels_last):
        with formulation(name), torch.autocast("cpu", torch.bfloat16):
            given = x.contiguous(memory_format=memory_format)
            found = mixture_conv2d(given, kernels, coefficients, padding=1, groups=groups)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=4 * tolerance)


@pytest.mark.parametrize("own_bias", [False, True])
def test_what_an_export_records_computes_the_same(own_bias) -> None:
    x, kernels, taps = torch.randn(3, 4, 6, 5), torch.randn(2, 4, 1, 3, 3), torch.rand(3, 3, 3)
    coefficients, bias = torch.rand(3, 2), torch.randn(3, 4) if own_bias else torch.randn(4)
    geometry = [2, 2], [1, 1], [1, 1], 4
    shift = bias.reshape(-1, 4, 1, 1)
    expected = mixture_conv2d(x, kernels, coefficients, stride=2, padding=1, groups=4) + shift
    found = torch.ops.dyvision.mixture_by_sample(x, kernels, coefficients, bias, *geometry)
    torch.testing.assert_close(found, expected)
    expected = mixture_conv2d(x, kernels, coefficients, stride=2, padding=1, groups=4, taps=taps) + shift
    mixed = torch.einsum("bk,k...->b...", coefficients, kernels)
    found = torch.ops.dyvision.conv2d_by_sample(x, mixed, taps.flatten(1), bias, *geometry)
    torch.testing.assert_close(found, expected)
