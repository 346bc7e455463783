"""If these fail, a dynamic network is not what it claims: other outputs, mixed-up samples, dead parameters."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from dyvision.backbones import create_backbone, create_model, dynamize
from dyvision.layers import DynamicConv2d, list_layers

LAYERS = [layer for layer in list_layers() if layer != "static"]
NETWORKS = ["mobilenetv2_035", "test_resnet", "shufflenetv2_050", "test_convnext", "test_byobnet"]


def dynamic_layers(model):
    return [module for module in model.modules() if isinstance(module, DynamicConv2d)]


@torch.no_grad()
def randomize(model):
    """Move branches away from their special initial values."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


@torch.no_grad()
def settle(model, images):
    """Give BatchNorm the statistics of these images: an untrained network's signal dies out or explodes otherwise."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(images)
    return model.eval()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_parameter_learns(layer, network):
    backbone = create_backbone(network, layer=layer)
    assert dynamic_layers(backbone)
    randomize(backbone)
    # maps of at least 2x2 where BatchNorm needs them
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    dead = [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_samples_do_not_influence_each_other(layer, network):
    # float64: the enlarged weights amplify float32 rounding layer by layer
    images = torch.randn(8, 3, 64, 48, dtype=torch.float64)
    model = settle(randomize(create_model(network, layer=layer, num_classes=5)).double(), images)
    x = images[:3]
    together = model(x)
    alone = torch.cat([model(sample[None]) for sample in x])
    between = (together[0] - together[1]).norm()
    assert between > 1e-3 * together.norm()
    assert (together - alone).norm() < 0.02 * between


@pytest.mark.parametrize(
    ("network", "policy"),
    [
        ("mobilenetv2_035", None),
        ("test_resnet", "all"),
        ("shufflenetv2_050", None),
        ("test_convnext", "all"),
        ("test_byobnet", "all"),
        ("tf_mobilenetv3_small_100", "all"),
        pytest.param("tf_efficientnet_lite0", "all", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
def test_preserved_outputs(layer, network, policy):
    model = settle(create_model(network, num_classes=5), torch.randn(8, 3, 64, 64))
    x = torch.randn(2, 3, 65, 64)
    expected = model(x)
    returned = dynamize(model, layer, policy=policy)
    assert returned is model and dynamic_layers(model) and not any(m.training for m in model.modules())
    error = (model(x) - expected).norm() / expected.norm()
    assert error < 1e-4


@pytest.mark.parametrize("preserve_outputs", [True, False])
def test_layers_of_a_stage_share_a_warehouse(preserve_outputs):
    model = create_model("resnet18", layer="kernelwarehouse", preserve_outputs=preserve_outputs)
    stage = [model.layer3[block].get_submodule(name) for block in (0, 1) for name in ("conv1", "conv2")]
    # the first leads from 128 to 256 channels: its kernel has other sizes
    assert len({id(layer.warehouse) for layer in stage[1:]}) == 1
    assert stage[0].warehouse is not stage[1].warehouse
    assert stage[1].warehouse.num_cells == 3 * 9
    assert stage[1].warehouse is not model.layer4[1].conv1.warehouse
    inverted = create_model("mobilenetv2_035", layer="kernelwarehouse").blocks[2]
    assert inverted[1].conv_pw.warehouse is inverted[2].conv_pwl.warehouse
    assert inverted[1].conv_dw.warehouse is not inverted[1].conv_pw.warehouse


def test_from_scratch_starts_from_the_methods_own_initialisation():
    torch.manual_seed(3)
    static = create_model("test_resnet").eval()
    torch.manual_seed(3)
    dynamic = create_model("test_resnet", layer="dyconv").eval()
    torch.manual_seed(3)
    preserved = create_model("test_resnet", layer="dyconv", preserve_outputs=True).eval()
    x = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(static(x), dynamic(x), rtol=1e-3)
    torch.testing.assert_close(static(x), preserved(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["mobilenetv2_035", "shufflenetv2_050"])
@pytest.mark.parametrize("layer", LAYERS)
def test_output_stride_with_dynamic_layers(layer, network):
    backbone = create_backbone(network, layer=layer, output_stride=8, preserve_outputs=True).eval()
    assert backbone.feature_info.reduction() == [4, 8, 8, 8]
    assert [m.shape[-2:] for m in backbone(torch.randn(1, 3, 64, 48))] == [(16, 12), (8, 6), (8, 6), (8, 6)]


@pytest.mark.parametrize("layer", LAYERS)
def test_backbone_and_classifier_have_the_same_layers(layer):
    classifier = create_model("mobilenetv2_035", layer=layer)
    backbone = create_backbone("mobilenetv2_035", layer=layer)
    shapes = {key: value.shape for key, value in classifier.state_dict().items()}
    for key, value in backbone.state_dict().items():
        assert shapes[key.removeprefix("body.")] == value.shape


@pytest.mark.parametrize("layer", LAYERS)
def test_mode_and_dtype_are_kept(layer):
    model = create_model("test_resnet").double()
    model.layer1.eval()
    dynamize(model, layer, policy="blocks")
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(m.training for m in model.layer1.modules()) and all(m.training for m in model.layer2.modules())
    assert model.eval()(torch.randn(1, 3, 64, 64).double()).dtype == torch.float64


@pytest.mark.parametrize("layer", LAYERS)
def test_device_is_kept(layer):
    with torch.device("meta"):
        model = create_model("test_resnet", layer=layer)
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}


def test_static_changes_nothing():
    model = create_model("test_resnet")
    before = list(model.named_modules())
    assert dynamize(model, "static") is model
    assert list(model.named_modules()) == before


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.mobilenet_v3_small])
def test_networks_of_torchvision(build):
    model = build(num_classes=4).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    dynamize(model, "condconv", policy="blocks")
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)


def test_a_convolution_used_twice_stays_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.a = nn.Conv2d(4, 4, 3, padding=1)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(self.first(x)))

    model = dynamize(Twice(), "dyconv")
    assert model.a is model.b and isinstance(model.a, DynamicConv2d)


def test_dynamic_layers_are_left_alone():
    model = create_model("test_resnet", layer="dyconv")
    before = len(dynamic_layers(model))
    dynamize(model, "dcd", policy="conv1.*")  # the stem is all that is left
    assert [type(m).__name__ for m in dynamic_layers(model)].count("DyConv2d") == before
    with pytest.raises(ValueError, match="has no convolution that can become dynamic"):
        dynamize(create_model("test_resnet", layer="dyconv", policy="all"), "dcd")


def test_layer_arguments_by_dict_or_by_name():
    by_dict = create_model("test_resnet", layer="dyconv", layer_kwargs={"num_kernels": 2}).state_dict()
    by_name = create_model("test_resnet", "dyconv", num_kernels=2).state_dict()
    assert {key: value.shape for key, value in by_dict.items()} == {key: value.shape for key, value in by_name.items()}
    with pytest.raises((TypeError, ValueError), match="num_kernel"):
        create_model("test_resnet", "dyconv", num_kernel=2)
