"""dyvision's networks through timm's own functions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from dyvision.adapters.timm import register
from dyvision.backbones import list_backbones
from dyvision.layers import DynamicConv2d, list_layers


def dynamic(model: nn.Module) -> list[DynamicConv2d]:
    return [module for module in model.modules() if isinstance(module, DynamicConv2d)]


def test_every_network_and_layer_has_a_name() -> None:
    names = set(timm.list_models("dyvision_*"))
    assert {f"dyvision_mobilenetv2_100_{layer}" for layer in list_layers()} <= names
    assert {"dyvision_resnet10_dcd", "dyvision_dy_resnet18", "dyvision_kw1x_resnet18"} <= names
    assert "dyvision_dy_resnet18_dcd" not in names, "its layers are its own"
    for network in list_backbones():
        assert any(name.startswith(f"dyvision_{network}") for name in names)
    assert not any(set("./-:") & set(name) for name in names)
    assert timm.is_model("dyvision_test_resnet_odconv")


@pytest.mark.parametrize("layer", list_layers())
def test_a_classifier(layer) -> None:
    model = timm.create_model(f"dyvision_mobilenetv2_035_{layer}", num_classes=5, in_chans=1).eval()
    assert bool(dynamic(model)) == (layer != "static")
    x = torch.randn(2, 1, 32, 32)
    assert model(x).shape == (2, 5)
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x))
    assert isinstance(model.get_classifier(), nn.Linear)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and model.num_classes == 3


def test_layer_arguments_are_keywords() -> None:
    model = timm.create_model("dyvision_mobilenetv2_035_dyconv", num_kernels=2, policy="all")
    assert {module.num_kernels for module in dynamic(model)} == {2}
    same = timm.create_model("dyvision_mobilenetv2_035_dyconv", layer_kwargs={"num_kernels": 2}, policy="all")
    assert same.state_dict().keys() == model.state_dict().keys()


def test_an_argument_of_both_is_the_networks() -> None:
    name = "dyvision_test_resnet_kernelwarehouse"
    model = timm.create_model(name, norm_layer=nn.InstanceNorm2d, layer_kwargs={"norm_layer": "layernorm"})
    kinds = {type(module) for module in model.modules()}
    assert {nn.InstanceNorm2d, nn.LayerNorm} <= kinds and nn.BatchNorm2d not in kinds


@pytest.mark.parametrize("network", ["mobilenetv2_035", "test_resnet", "mobilenetv3_small_050", "dy_mobilenetv2"])
def test_features(network) -> None:
    layer = "" if network.startswith("dy_") else "_dcd"
    model = timm.create_model(f"dyvision_{network}{layer}", features_only=True).eval()
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32], "all levels, as timm's own"
    maps = model(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [64 // m.shape[2] for m in maps] == [2, 4, 8, 16, 32]
    model = timm.create_model(
        f"dyvision_{network}{layer}",
        features_only=True,
        out_indices=(1, 4),
        output_stride=16,
        in_chans=1,
        num_classes=7,
    )
    assert model.feature_info.reduction() == [4, 16]
    assert [m.shape[2] for m in model(torch.randn(2, 1, 64, 64))] == [16, 4]


def test_pretrained_weights_are_those_of_the_static_network(tmp_path) -> None:
    static = timm.create_model("test_resnet", num_classes=1000).eval()
    save_file(static.state_dict(), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors")}
    name = "dyvision_test_resnet_dyconv"
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), static(x), rtol=1e-4, atol=1e-4)
    features = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True).eval()
    torch.testing.assert_close(features(x)[-1], static.forward_features(x), rtol=1e-4, atol=1e-4)


def test_configurations_are_those_of_the_static_network() -> None:
    name = "dyvision_tf_efficientnet_lite0_dcd"
    assert timm.models.get_pretrained_cfg(name).mean == (0.5, 0.5, 0.5)
    model = timm.create_model(name)
    assert model.default_cfg is model.pretrained_cfg and model.pretrained_cfg["architecture"] == name
    assert timm.data.resolve_model_data_config(model) == timm.data.resolve_model_data_config(
        timm.create_model("tf_efficientnet_lite0")
    )
    features = timm.create_model("dyvision_test_resnet_dcd", features_only=True)
    assert timm.data.resolve_model_data_config(features)["input_size"][0] == 3
    assert name in timm.list_models("dyvision_*lite0_dcd", pretrained=True, include_tags=False)


def test_saved_by_timm_and_loaded_again(tmp_path) -> None:
    model = timm.create_model("dyvision_test_resnet_dyconv", num_kernels=2, num_classes=5).eval()
    timm.models.save_for_hf(model, tmp_path)
    x = torch.randn(2, 3, 64, 64)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(again(x), model(x))
    features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    torch.testing.assert_close(features(x)[-1], model.forward_features(x))


def test_a_training_step() -> None:
    model = timm.create_model("dyvision_test_resnet_odconv", num_classes=4)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_registered_later_is_found() -> None:
    # in a process of its own: nothing is ever taken out of a registry
    subprocess.run([sys.executable, "-c", LATER], check=True, timeout=200)


LATER = """
import timm

import dyvision.adapters.timm
from dyvision.adapters.timm import register
from dyvision.backbones import register_backbone
from dyvision.layers import DynamicConv2d, register_layer
from dyvision.layers.dyconv import DyConv2d

@register_layer("my-dcd-v2")
class Mine(DyConv2d):
    pass

@register_backbone("mine")
def mine(pretrained=False, **arguments):
    return timm.create_model("test_resnet", **arguments)

assert register("dyvision_test_resnet_my-dcd-v2") == ["dyvision_test_resnet_my_dcd_v2"]
assert any(isinstance(module, Mine) for module in timm.create_model("dyvision_test_resnet_my_dcd_v2").modules())
names = register()
assert {"dyvision_mine_dcd", "dyvision_mine_my_dcd_v2", "dyvision_resnet18_my_dcd_v2"} <= set(names)
assert any(isinstance(m, DynamicConv2d) for m in timm.create_model("dyvision_mine_dcd").modules())
"""


def test_any_network_of_timm_is_registered_by_name() -> None:
    assert register("dyvision_test_nfnet_dyconv") == ["dyvision_test_nfnet_dyconv"]
    assert timm.is_model("dyvision_test_nfnet_dyconv")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dyvision_resnt18_dcd", "unknown network 'resnt18'.*dyvision_resnet18_dcd"),
        ("dyvision_resnet18_dyconf", "unknown layer 'dyconf'.*dyvision_resnet18_dyconv.*layers are"),
        ("dyvision_resnt18_dyconf", "unknown network and layer.*dyvision_resnet18_dyconv"),
        ("resnet18_dcd", "dyvision_NETWORK_LAYER"),
        ("dyvision", "dyvision_NETWORK_LAYER"),
    ],
)
def test_a_wrong_name_gives_the_closest(name, message) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        register(name)
    assert "\n" not in str(raised.value)


def test_a_wrong_argument_gives_the_closest() -> None:
    with pytest.raises(ValueError, match=r"num_kernel=2.*did you mean 'num_kernels'"):
        timm.create_model("dyvision_test_resnet_dyconv", num_kernel=2)


def test_nothing_is_registered_before_it_is_asked_for() -> None:
    code = "import timm, dyvision.backbones; assert not timm.list_models('dyvision_*')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("given", "close"),
    [("num_clases", "num_classes"), ("feature_only", "features_only"), ("num_kernel", "num_kernels")],
)
def test_misspelt_keywords_are_named(given, close) -> None:
    with pytest.raises(ValueError, match=f"{given}.*did you mean {close!r}"):
        timm.create_model("dyvision_mobilenetv2_035_dyconv", **{given: 1})
