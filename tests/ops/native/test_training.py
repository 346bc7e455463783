"""Training takes the compiled passes where a call is plain, others elsewhere, and both give the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dyvision.layers import get_layer
from dyvision.ops import _call_cache, dynamic_conv2d, formulation, mixture_conv2d, native
from dyvision.ops.formulations import native as row

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """Which gradients were computed natively."""
    found: list[str] = []
    call = native.gradients

    def spy(grad, input, kernels, coefficients, *others):
        found.append("given" if coefficients is None else "mixed")
        return call(grad, input, kernels, coefficients, *others)

    monkeypatch.setattr(row.native, "gradients", spy)
    _call_cache._calls.clear()
    return found


def leaves(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    sizes = ((3, 8, 7, 7), (4, 6, 8, 3, 3), (3, 4), (4, 6), (3, 8, 3, 3))
    return [torch.randn(size, generator=g).to(dtype).requires_grad_() for size in sizes]


def convolve(x, bank, mix, bias, factors, **options) -> Tensor:
    return mixture_conv2d(x, bank, mix, bias, padding=1, taps=factors, **options)


def by(name: str, tensors: list[Tensor], finish=lambda output: output.square().sum()) -> list[Tensor]:
    with formulation(name):
        return list(torch.autograd.grad(finish(convolve(*tensors)), tensors))


def test_plain_calls_are_trained_natively(used):
    tensors = leaves()
    expected = by("loop", tensors)
    assert not used
    found = torch.autograd.grad(convolve(*tensors).square().sum(), tensors)
    assert used == ["mixed"]
    torch.testing.assert_close(list(found), expected, rtol=1e-4, atol=1e-4)
    depthwise = [torch.randn(2, 20, 9, 9, requires_grad=True), torch.randn(2, 20, 1, 3, 3, requires_grad=True)]
    found = torch.autograd.grad(dynamic_conv2d(*depthwise, padding=1, groups=20).square().sum(), depthwise)
    assert used == ["mixed", "given"]
    with formulation("loop"):
        output = dynamic_conv2d(*depthwise, padding=1, groups=20)
    expected = torch.autograd.grad(output.square().sum(), depthwise)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "finish",
    [
        lambda output: output.sum(),  # a gradient of one number, expanded
        lambda output: output.transpose(2, 3).contiguous().square().sum(),
        lambda output: output[:, ::2, 1:].square().sum(),
        lambda output: output.contiguous(memory_format=torch.channels_last).square().sum(),
        lambda output: output.mean((2, 3)).square().sum(),
    ],
)
def test_gradients_of_any_layout(used, finish):
    tensors = leaves()
    found = torch.autograd.grad(finish(convolve(*tensors)), tensors)
    assert used == ["mixed"]
    torch.testing.assert_close(list(found), by("loop", tensors, finish), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (lambda tensors: [t.detach().double().requires_grad_() for t in tensors], 1e-4),
        (lambda tensors: [t.detach().bfloat16().requires_grad_() for t in tensors], 1e-1),
        (
            lambda tensors: [
                tensors[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_(),
                *tensors[1:],
            ],
            1e-4,
        ),
    ],
)
def test_other_types_and_layouts_are_left_to_the_library(used, change, tolerance):
    tensors = change(leaves())
    found = torch.autograd.grad(convolve(*tensors).float().square().sum(), tensors)
    assert not used
    for ours, theirs in zip(found, by("loop", leaves()), strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


def test_only_what_is_asked_for(used):
    tensors = leaves()
    for index in range(len(tensors)):
        chosen = [t.detach().requires_grad_(i == index) for i, t in enumerate(tensors)]
        convolve(*chosen).square().sum().backward()
        assert [t.grad is not None for t in chosen] == [i == index for i in range(len(tensors))]
        torch.testing.assert_close(chosen[index].grad, by("loop", tensors)[index], rtol=1e-4, atol=1e-4)


def test_second_derivatives(used):
    tensors = leaves()

    def second(name: str) -> list[Tensor]:
        with formulation(name):
            first = torch.autograd.grad(convolve(*tensors).square().sum(), tensors, create_graph=True)
            return list(torch.autograd.grad(sum(g.square().sum() for g in first) / 1e4, tensors))

    torch.testing.assert_close(second("native"), second("loop"), rtol=1e-3, atol=1e-3)


def test_a_backward_pass_that_is_watched_is_seen(used):
    tensors = leaves()
    output = convolve(*tensors).square().sum()
    with FlopCounterMode(display=False) as counter:
        output.backward()
    assert counter.get_total_flops() > 0 and not used


def test_transforms_and_autocast_take_plain_operations(used):
    tensors = [t.detach() for t in leaves()]
    loss = lambda *t: convolve(*t).square().sum()  # noqa: E731
    found = torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))(*tensors)
    torch.testing.assert_close(list(found), by("loop", leaves()), rtol=1e-4, atol=1e-4)
    layer = get_layer("odconv")(8, 6, 3, padding=1).eval()
    others = {name: value.detach().clone() for name, value in layer.named_parameters()}
    torch.func.grad(lambda p: torch.func.functional_call(layer, p, (tensors[0],)).square().sum())(others)
    with torch.autocast("cpu", torch.bfloat16):
        layer(tensors[0]).sum().backward()
    assert not used


@pytest.mark.parametrize("name", ["dyconv", "odconv", "condconv", "dcd"])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 8)])
def test_layers_train_as_with_the_library(used, name, kernel, groups):
    torch.manual_seed(0)
    layer = get_layer(name)(8, 8 if groups > 1 else 12, kernel, padding=kernel // 2, groups=groups)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    x = torch.randn(4, 8, 9, 9)

    def steps(forced: str | None) -> tuple[list[Tensor], int]:
        used.clear()
        layer.load_state_dict(state)
        optimizer = torch.optim.SGD(layer.parameters(), 0.05)
        found = []
        for _ in range(3):  # weights that an optimiser changed in place are those that are used
            inputs = x.clone().requires_grad_()
            if forced is None:
                output = layer(inputs)
            else:
                with formulation(forced):
                    output = layer(inputs)
            optimizer.zero_grad()
            output.square().mean().backward()
            optimizer.step()
            found += [output.detach(), inputs.grad]
        return found, len(used)

    expected, none = steps("grouped")
    found, native_calls = steps(None)
    assert none == 0 and (native_calls > 0 or (name == "dcd" and kernel > 1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_frozen_kernels_and_deterministic_steps():
    layer = get_layer("odconv")(16, 24, 3, padding=1)
    layer.weight.requires_grad_(False)
    x = torch.randn(5, 16, 8, 8)
    gradients = []
    for _ in range(2):
        layer.zero_grad()
        layer(x).square().mean().backward()
        gradients.append([p.grad for p in layer.parameters() if p.requires_grad])
    assert layer.weight.grad is None
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert isinstance(layer.weight, nn.Parameter)
