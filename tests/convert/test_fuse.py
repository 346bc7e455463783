"""If these fail, a network for inference computes something else, or keeps normalisations it could lose."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dyvision
from dyvision.layers import get_layer
from tests.convert.settled import settle


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("layer", ["static", "condconv", "dcd", "dyconv", "dynet", "odconv", "kernelwarehouse", "se"])
@pytest.mark.parametrize("network", ["mobilenetv2_035", "test_resnet", "shufflenetv2_050"])
def test_outputs_stay_and_the_network_is_not_touched(layer, network):
    model = settle(dyvision.create_model(network, layer=layer, num_classes=5))
    x = torch.randn(3, 3, 64, 48)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(x)
    fused = dyvision.fuse(model)
    torch.testing.assert_close(fused(x), expected, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert norms(fused) < norms(model)
    if layer in ("static", "condconv", "dcd", "dyconv", "dynet", "odconv"):
        assert norms(fused) == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", ["condconv", "dcd", "dyconv", "dynet", "odconv"])
def test_each_layer_with_and_without_bias(layer, bias):
    net = nn.Sequential(get_layer(layer)(3, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8), nn.ReLU())
    net = settle(net)
    x = torch.randn(2, 3, 9, 7)
    fused = dyvision.fuse(net, (1, 3, 9, 7))
    torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-5)
    # CondConv's coefficients do not sum to one: with a bias per kernel there is no room for the shift
    assert isinstance(fused[1], nn.BatchNorm2d if (layer, bias) == ("condconv", True) else nn.Identity)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_what_is_used_twice_is_refused():
    with pytest.raises(ValueError, match="more than one place"):
        dyvision.fuse(settle(Twice()))
    with pytest.raises(ValueError, match=r"model\.eval"):
        dyvision.fuse(nn.Sequential(nn.Conv2d(3, 4, 1)))


@pytest.mark.parametrize("layer", ["dcd", "dyconv", "odconv"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_branches_fold_in(layer, kernel):
    """Norms inside the layer and a temperature are gone, and what the layer predicts steers it as before."""
    torch.manual_seed(0)
    conv = get_layer(layer)(8, 12, kernel, padding=kernel // 2, **({} if layer == "dcd" else {"temperature": 3.0}))
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = 1 + torch.randn(4, 8, 9, 7)
    conv(x)  # running statistics
    net = settle(nn.Sequential(conv))
    with torch.no_grad():
        for size in (1, 4):
            fused = dyvision.fuse(net, (1, 8, 9, 7))
            torch.testing.assert_close(fused(x[:size]), net(x[:size]), rtol=1e-4, atol=1e-4)
    names = {name for name, _ in fused.named_modules()}
    assert not names & {"0.bn1", "0.bn2", "0.branch.bn", "0.branch.fc_phi", "0.branch.kernel_fc"}
    again = dyvision.fuse(fused, (1, 8, 9, 7))
    torch.testing.assert_close(again(x), fused(x))


def test_a_batch_instead_of_its_shape_is_told() -> None:
    with pytest.raises(TypeError, match=r"fuse\(model, \(2, 3, 8, 8\)\)"):
        dyvision.fuse(nn.Conv2d(3, 4, 1).eval(), torch.randn(2, 3, 8, 8))


def test_outputs_that_are_not_finite_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model[1].running_mean.fill_(float("inf"))
    with pytest.raises(ValueError, match="not finite"):
        dyvision.fuse(model)
