"""If these fail, a fused network activates twice, never, or in the wrong place."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

import dyvision
from dyvision.layers import get_layer
from dyvision.layers.fused import FusedConv2d
from dyvision.ops import native
from tests.convert.settled import settle


def block(layer: str, activation: nn.Module, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    conv = get_layer(layer)(8, 8, kernel, padding=kernel // 2, groups=groups, bias=False)
    return settle(nn.Sequential(conv, nn.BatchNorm2d(8), activation))


@pytest.mark.parametrize("layer", ["static", "condconv", "dyconv", "dynet", "odconv", "dcd"])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(inplace=True)])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 8)])
def test_an_activation_is_part_of_the_convolution_before_it(layer, activation, kernel, groups):
    net = block(layer, copy.deepcopy(activation), kernel, groups)
    fused = dyvision.fuse(net, (1, 8, 9, 9))
    assert not any(isinstance(module, (nn.ReLU, nn.ReLU6)) for module in fused.modules())
    x = 5 * torch.randn(3, 8, 9, 9)
    expected = net(x)
    assert (expected == 0).any()
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)  # gradients are recorded
    for batch in (1, 3):
        with torch.inference_mode():
            torch.testing.assert_close(fused(x[:batch]), expected[:batch], rtol=1e-4, atol=1e-5)
    grown = x.clone().requires_grad_()
    fused(grown).sum().backward()
    again = x.clone().requires_grad_()
    net(again).sum().backward()
    torch.testing.assert_close(grown.grad, again.grad, rtol=1e-3, atol=1e-4)


class Network(nn.Module):
    """Whose forward is given."""

    def __init__(self, forward, *convs: nn.Module) -> None:
        super().__init__()
        self.convs, self.act, self.norm = nn.ModuleList(convs), nn.ReLU(inplace=True), nn.BatchNorm2d(8)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


FORWARDS = {
    "one activation behind two": (lambda net, x: net.act(net.convs[1](net.act(net.convs[0](x)))), 2),
    "also behind a sum": (lambda net, x: net.act(net.convs[1](net.act(net.convs[0](x))) + x), 0),
    "the convolution is read twice": (lambda net, x: (y := net.convs[0](x)) * 1 + net.act(y * 1) + net.convs[1](y), 0),
    "read again after the activation": (lambda net, x: (y := net.convs[0](x)).sigmoid() + net.act(y), 0),
    "the convolution is called twice": (lambda net, x: net.act(net.convs[0](net.convs[0](x))) + net.convs[1](x), 0),
    "read where both are the same": (lambda net, x: (y := net.convs[0](x) + 0) + net.act(y * 1) + net.convs[1](x), 0),
    "the norm is behind the activation": (lambda net, x: net.norm(net.act(net.convs[0](x))) + net.convs[1](x), 1),
}


@pytest.mark.parametrize("layer", ["static", "dyconv"])
@pytest.mark.parametrize("case", FORWARDS)
def test_what_else_reads_a_convolution_or_an_activation(layer, case):
    forward, folded = FORWARDS[case]
    make = get_layer(layer)
    net = settle(Network(forward, *(make(8, 8, 1) for _ in range(2))))
    x = torch.randn(2, 8, 6, 6)
    expected = net(x.clone())
    fused = dyvision.fuse(net, (1, 8, 6, 6))
    with torch.inference_mode():
        torch.testing.assert_close(fused(x.clone()), expected, rtol=1e-4, atol=1e-5)
    assert (
        sum(module.fused_activation == "relu" for module in fused.convs if hasattr(module, "fused_activation"))
        == folded
    )


def test_static_convolutions_keep_their_parameters_and_names():
    net = settle(
        nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), Conv2dSame(16, 16, 3, stride=2, groups=16), nn.Conv2d(16, 4, 3))
    )
    fused = dyvision.fuse(net, (1, 8, 9, 9))
    assert [type(module) for module in fused] == [FusedConv2d, nn.Identity, FusedConv2d, nn.Conv2d]
    assert list(fused.state_dict()) == list(net.state_dict())
    x = torch.randn(1, 8, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fused[0](x[0]), F.relu(net[0](x[0])), rtol=1e-4, atol=1e-5)  # without a batch
    torch.testing.assert_close(fused.double()(x.double()), net.double()(x.double()))
    net.float()
    kept = dyvision.fuse(net, (1, 8, 9, 9), native_static=False)
    assert [type(module) for module in kept] == [type(module) for module in net]


def test_convolutions_with_hooks_stay():
    net = settle(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
    seen: list[int] = []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    fused = dyvision.fuse(net, (1, 8, 5, 5))
    seen.clear()
    fused(torch.randn(1, 8, 5, 5))
    assert seen and isinstance(fused[1], nn.ReLU)


@pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")
@pytest.mark.parametrize("groups", [1, 8])
def test_native_kernels_compute_static_convolutions(groups, monkeypatch):
    calls = []
    original = native.Convolution.__call__
    monkeypatch.setattr(native.Convolution, "__call__", lambda self, *args: calls.append(1) or original(self, *args))
    kernel = 3 if groups > 1 else 1
    net = settle(nn.Sequential(nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=groups), nn.ReLU6()))
    fused = dyvision.fuse(net, (1, 8, 9, 9))
    x = 4 * torch.randn(1, 8, 9, 9)
    calls.clear()
    with torch.inference_mode():
        expected = net(x)
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
        assert calls == [1]
        fused[0].weight.mul_(2)
        net[0].weight.mul_(2)
        torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-5)  # changed weights are seen
        assert calls == [1, 1]
        with pytest.raises(RuntimeError, match="channels"):
            fused(torch.randn(1, 7, 9, 9))


@pytest.mark.parametrize("layer", ["dyconv", "dcd"])
def test_a_fused_network_collapses_with_its_activations(layer):
    net = settle(nn.Sequential(*block(layer, nn.ReLU()), *block("static", nn.ReLU6(), 1)))
    fused = dyvision.fuse(net, (1, 8, 9, 9))
    images = torch.randn(1, 8, 9, 9)
    with torch.no_grad():
        collapsed = dyvision.collapse(fused, [images])
        torch.testing.assert_close(collapsed(images), net(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hidden_reduction", [None, 4])
def test_the_order_of_coefficients_is_prepared_once(hidden_reduction):
    net = nn.Sequential(get_layer("dynet")(8, 12, 3, hidden_reduction=hidden_reduction), nn.BatchNorm2d(12), nn.ReLU())
    net = settle(net)
    fused = dyvision.fuse(dyvision.fuse(net, (1, 8, 9, 9)), (1, 8, 9, 9))
    x = torch.randn(3, 8, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fused[0].coefficients(x), net[0].coefficients(x))


class Beside(nn.Module):
    """Reads a convolution's output beside the activation; its bias makes all of it positive."""

    def __init__(self, read) -> None:
        super().__init__()
        self.conv, self.act, self.read = nn.Conv2d(8, 8, 1), nn.ReLU(), read
        nn.init.constant_(self.conv.bias, 30.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(y) + self.read(y)


@pytest.mark.parametrize("read", [lambda y: y, torch.abs, lambda y: y.amax((2, 3), keepdim=True), lambda y: y.square()])
def test_a_reader_that_the_example_does_not_show(read):
    net = Beside(read).eval()
    fused = dyvision.fuse(net, (1, 8, 5, 5))
    x = 40 * torch.randn(2, 8, 5, 5)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-4)
    assert isinstance(fused.act, nn.ReLU)


def test_one_activation_that_stays_leaves_the_others():
    net = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), Beside(torch.abs), nn.Conv2d(8, 8, 1), nn.ReLU()).eval()
    fused = dyvision.fuse(net, (1, 8, 5, 5))
    assert [type(fused[i]) for i in (1, 4)] == [nn.Identity, nn.Identity] and isinstance(fused[2].act, nn.ReLU)


class Doubling(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_activations_of_other_classes_and_with_hooks_are_called():
    net = nn.Sequential(nn.Conv2d(8, 8, 1), Doubling(), nn.Conv2d(8, 8, 1), nn.ReLU()).eval()
    seen: list[int] = []
    net[3].register_forward_hook(lambda *_: seen.append(1))
    fused = dyvision.fuse(net, (1, 8, 5, 5))
    seen.clear()
    x = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-5)
    assert len(seen) == 2 and isinstance(fused[1], Doubling)


def test_fuse_within_inference_mode():
    with torch.inference_mode():
        net = block("dyconv", nn.ReLU())
        fused = dyvision.fuse(net, (1, 8, 9, 9))
        x = torch.randn(1, 8, 9, 9)
        torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-5)
    assert isinstance(fused[2], nn.Identity)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_type_is_none_of_a_network_of_another(default):
    net = settle(nn.Sequential(nn.Conv2d(8, 11, 1), nn.ReLU()))
    fused = dyvision.fuse(net, (1, 8, 9, 9))
    x = torch.randn(3, 8, 31, 33)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        with torch.inference_mode():
            found = fused(x)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(found, net(x), rtol=1e-4, atol=1e-5)
