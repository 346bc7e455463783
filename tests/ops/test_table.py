"""If these fail, a new formulation takes more than its file and its row, or a row says something that is not so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dyvision.ops import FORMULATIONS, dynamic_conv2d, formulation, measuring, mixture_conv2d
from dyvision.ops.cost_model import estimate
from dyvision.ops.formulations import TABLE, Formulation, applicable, separable
from dyvision.ops.geometry import Geometry
from dyvision.ops.problem import Problem


def a_problem(kernel: int = 3, groups: int = 1, **changes) -> Problem:
    pad = kernel // 2
    values = {
        "batch": 3,
        "in_channels": 4,
        "out_channels": 8,
        "kernel": (kernel, kernel),
        "size": (6, 5),
        "geometry": Geometry((1, 1), (pad, pad), (1, 1), groups),
        "mixed": 2,
        "device": "cpu",
        "dtype": torch.float32,
        "channels_last": False,
        "training": True,
        "linear": True,
    }
    return Problem(**{**values, **changes})


@pytest.fixture
def new_row(monkeypatch):
    """A formulation that nothing in the package knows of, and how often each of its functions ran."""
    ran = {"forward": 0, "backward": 0, "straight": 0}

    def forward(x, weight, geometry, bias):
        ran["forward"] += 1
        rows = [F.conv2d(s[None], w, None, *geometry) for s, w in zip(x, weight, strict=True)]
        output = torch.cat(rows)
        return output if bias is None else output.add_(bias[:, :, None, None])

    def backward(grad, x, weight, geometry, mask):
        ran["backward"] += 1
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
            wanted = [leaf for leaf, want in zip(leaves, mask, strict=True) if want]
            found = iter(torch.autograd.grad(forward(*leaves, geometry, None), wanted, grad))
        return tuple(next(found) if want else None for want in mask)

    def straight(batch, size, kernel_shape, geometry):
        def run(x, weight, bias):
            ran["straight"] += 1
            weight = weight.reshape(batch, *kernel_shape)
            return forward(x, weight, geometry, None if bias is None else bias.expand(batch, -1))

        return run

    row = Formulation("per_sample", lambda _: True, lambda _: -1, forward, backward=backward, straight=straight)
    monkeypatch.setitem(TABLE, row.name, row)
    yield ran


@pytest.mark.parametrize("groups", [1, 2])
def test_a_new_row_is_forced_trained_and_fast(new_row, groups):
    x = torch.randn(3, 4, 6, 5, requires_grad=True)
    kernels, coefficients = torch.randn(2, 8, 4 // groups, 3, 3, requires_grad=True), torch.rand(3, 2)
    bias = torch.randn(8)

    def gradients(name):
        with formulation(name):
            output = mixture_conv2d(x, kernels, coefficients, bias, padding=1, groups=groups)
        return output, *torch.autograd.grad(output.square().sum(), (x, kernels))

    expected = gradients("grouped")
    assert not any(new_row.values())
    for found, value in zip(gradients("per_sample"), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-3)
    assert new_row["forward"] and new_row["backward"] and not new_row["straight"]
    with torch.no_grad(), formulation("per_sample"):
        found = mixture_conv2d(x, kernels, coefficients, bias, padding=1, groups=groups)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)
    assert new_row["straight"] == 1


def test_a_new_row_is_measured_and_planned(new_row):
    one = a_problem(batch=2)
    times = measuring.measure(one, rounds=1)
    assert "per_sample" in times["forward"] and "per_sample" in times["backward"]
    # the first by rank where nothing was measured; what does not say what it does is not expected to be fast
    assert estimate(a_problem(device="mps")).forward == "per_sample"
    assert estimate(one).forward != "per_sample"


def test_a_new_row_is_named_where_a_name_is_wrong(new_row):
    with pytest.raises(ValueError, match=r"did you mean 'per_sample'.*triton, per_sample"), formulation("per_sampel"):
        pass


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("mixed", [0, 2])
def test_what_a_row_says_is_so(kernel, groups, mixed):
    one = a_problem(kernel, groups, mixed=mixed)
    names = applicable(one)
    assert set(names) <= set(FORMULATIONS) and set(separable(one)) <= set(names)
    assert len({TABLE[name].rank(one) for name in names}) == len(names)  # a definite first
    x, weight = torch.randn(3, 4, 6, 5), torch.randn(3, 8, 4 // groups, kernel, kernel)
    expected = TABLE["grouped"].forward(x, weight, one.geometry, None)
    for name in names:
        row = TABLE[name]
        if row.straight is not None and (code := row.straight(3, (6, 5), weight.shape[1:], one.geometry)):
            torch.testing.assert_close(code(x, weight, None), expected, rtol=1e-4, atol=1e-4)
        if row.any_batch and row.forward_of_mixture is None:
            with formulation(name):
                batch = torch.export.Dim("batch", min=1, max=64)
                program = torch.export.export(
                    _Given(one.geometry), (x, weight), dynamic_shapes=({0: batch}, {0: batch})
                )
            found = program.module()(x[:2], weight[:2])
            torch.testing.assert_close(found, expected[:2], rtol=1e-4, atol=1e-4)


class _Given(torch.nn.Module):
    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry._asdict()

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return dynamic_conv2d(x, weight, **self.geometry)


def test_what_computes_mixtures_only_refuses_given_kernels():
    with pytest.raises(ValueError, match="mixtures only"):
        TABLE["mix_outputs"].forward(torch.randn(1, 1, 2, 2), torch.randn(1, 1, 1, 1, 1), a_problem().geometry, None)
    assert "mix_outputs" not in applicable(a_problem(mixed=0)) and not TABLE["mix_outputs"].separable
