"""If these fail, a host that folds convolutions makes a dynamic network static without a word."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dyvision import dynamize, list_layers
from dyvision.layers import DynamicConv2d, get_layer

DYNAMIC = [name for name in list_layers() if name != "static"]


def count(model):
    return sum(isinstance(module, DynamicConv2d) for module in model.modules())


@pytest.mark.parametrize("layer", DYNAMIC)
@pytest.mark.filterwarnings("ignore:the layers of")
def test_timms_reparametrisation_is_refused_or_keeps_the_dynamics(layer) -> None:
    model = timm.create_model("mobileone_s0", num_classes=3).eval()
    dynamize(model, layer, policy="blocks")
    before = count(model)
    assert before
    try:
        host = reparameterize_model(model)
    except TypeError as error:
        assert "dyvision.fuse" in str(error) and type(next(iter_dynamic(model))).__name__ in str(error)
    else:  # blocks that share a branch are rewritten, and have no method for it any more
        assert layer in ("condconv", "dynet", "weightnet") and count(host) == before
        x = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(host(x), model(x), rtol=1e-3, atol=1e-4)
    assert count(model) == before


def iter_dynamic(model):
    return (module for module in model.modules() if isinstance(module, DynamicConv2d))


@pytest.mark.parametrize("name", ["repvgg_a0", "fastvit_t8", "levit_conv_128s", "repvit_m0_9"])
@pytest.mark.parametrize("layer", ["se", "dyconv", "kernelwarehouse"])
def test_other_networks_that_reparametrise(layer, name) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    dynamize(model, layer, policy="all")
    before = count(model)
    with pytest.raises(TypeError, match=r"dyvision\.fuse"):
        reparameterize_model(model)
    assert count(model) == before


def fuse_conv_and_bn(conv, bn):
    """As frameworks for detection write it."""
    fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=True)
    with torch.no_grad():
        scale = torch.diag(bn.weight.div(torch.sqrt(bn.eps + bn.running_var)))
        fused.weight.copy_(torch.mm(scale, conv.weight.view(conv.out_channels, -1)).view(fused.weight.shape))
    return fused


class Repeated(nn.Module):
    def __init__(self, conv) -> None:
        super().__init__()
        self.conv, self.bn = conv, nn.BatchNorm2d(24)

    def switch_to_deploy(self) -> None:
        self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.bn)

    def get_equivalent_kernel_bias(self):
        return self.conv.weight * 2

    def reparameterize(self):
        return [conv.weight for conv in (self.conv,)]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layer", DYNAMIC)
def test_folding_functions_are_refused(layer, kernel) -> None:
    made = get_layer(layer)(20, 24, kernel).eval()
    host = Repeated(made).eval()
    for fold in (
        lambda: fuse_conv_and_bn(made, host.bn),
        lambda: fuse_conv_bn_eval(made, host.bn),
        host.switch_to_deploy,
        host.get_equivalent_kernel_bias,
        host.reparameterize,
    ):
        with pytest.raises(TypeError, match=rf"{type(made).__name__}.*dyvision\.fuse"):
            fold()
    assert host.conv is made


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layer", DYNAMIC)
def test_every_layer_has_a_weight_of_its_type_and_device(layer, dtype) -> None:
    for kernel in (1, 3):
        made = get_layer(layer)(20, 24, kernel).to(dtype)
        assert made.weight.dtype == dtype and any(made.weight is p for p in made.parameters())
        assert get_layer(layer)(20, 24, kernel, device="meta").weight.device.type == "meta"


@pytest.mark.parametrize("layer", DYNAMIC)
@pytest.mark.filterwarnings("ignore:dynamize leaves")
def test_a_network_that_reads_the_type_of_a_weight(layer) -> None:
    model = timm.create_model("edgenext_xx_small", num_classes=3).double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = model(x)
    dynamize(model, layer, policy="all")
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-6)


def test_an_own_layer_may_read_its_kernels_itself() -> None:
    class Own(get_layer("dyconv")):
        def fuse_branch(self) -> None:
            self.seen = self.weight.shape
            super().fuse_branch()

    made = Own(4, 4, 1)
    with torch.no_grad():
        made.fuse_branch()
    assert made.seen == made.weight.shape
