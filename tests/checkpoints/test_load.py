"""If these fail, weights of an official network land in the wrong place, or in part, or without a word about it."""

from __future__ import annotations

import argparse
import copy
import re

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from dyvision import create_model
from dyvision.backbones.published.kernelwarehouse import create_kernelwarehouse
from dyvision.checkpoints import SOURCES, load_official

PIXELS = 64


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value of its own, and norms the statistics of what reaches them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * (parameter.std(correction=0) + (parameter.ndim == 1)))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean over the calls below
        model.train()
        for _ in range(2):
            model(torch.randn(6, 3, PIXELS, PIXELS) + torch.randn(6, 3, 1, 1))
    return model.eval()


def assert_same(ours: torch.nn.Module, official: torch.nn.Module) -> None:
    # in float64: what rounding does to networks with random weights differs between ways of computing
    x = torch.randn(3, 3, PIXELS, PIXELS).double() + torch.randn(3, 3, 1, 1)
    with torch.no_grad():
        expected, found = (copy.deepcopy(model).double().eval()(x) for model in (official, ours))
    assert expected.std(0).max() > 0.01  # otherwise anything would agree
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_static_names_of_mobilenetv2_and_resnet_agree_with_torchvisions() -> None:
    # torchvision's names are those of the odconv and kernelwarehouse networks
    official = randomise(torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35))
    for source in ("odconv", "kernelwarehouse"):
        ours = create_model("mobilenetv2_035", num_classes=10)
        load_official(ours, official.state_dict(), source)
        assert_same(ours, official)
    official = randomise(torchvision.models.resnet18(num_classes=10))
    for source in ("odconv", "dyconv", "dcd", "kernelwarehouse"):
        ours = create_model("resnet18", num_classes=10)
        load_official(ours, official.state_dict(), source)
        assert_same(ours, official)


def test_condconv_mobilenetv2_computes_the_same(condconv_network) -> None:
    official = randomise(condconv_network(10, 3))
    ours = create_model("mobilenetv2_035", "condconv", 10, num_kernels=3, dynamic_classifier=True)
    report = load_official(ours, official.state_dict(), "condconv")
    assert_same(ours, official)
    assert dict(report.mapped)["features.17.route.fc.bias"] == "blocks.6.0.coefficient_branch.fc.bias"
    assert report.kept == ()


@pytest.mark.parametrize("prefix", ["", "tf_"])
def test_timms_own_condconv_network_computes_the_same(prefix) -> None:
    official = randomise(timm.create_model(f"{prefix}efficientnet_cc_b0_4e", num_classes=10))
    ours = create_model(f"{prefix}efficientnet_b0", "condconv", 10, num_kernels=4)
    load_official(ours, official.state_dict(), "timm")
    assert_same(ours, official)


# one name of each kind; shapes follow from strictness
CASES = [
    (
        "dcd",
        ("mobilenetv2_035", "dcd", {"dynamic_classifier": True}),
        {
            "features.0.1.bias": "bn1.bias",
            "features.1.conv.0.weight": "blocks.0.0.conv_dw.weight",
            "features.1.conv.4.bias": "blocks.0.0.bn2.bias",
            "features.2.conv.0.fc.1.fc.0.weight": "blocks.1.0.conv_pw.branch.gate.weight",
            "features.4.conv.6.conv_p.weight": "blocks.2.0.conv_pwl.conv_p.weight",
            "conv.0.weight": "conv_head.weight",
            "classifier.0.cls_q.weight": "classifier.conv.conv_q.weight",
            "classifier.0.fc.0.weight": "classifier.conv.branch.squeeze.weight",
        },
    ),
    (
        "dcd",
        ("resnet50", "dcd", {"dynamic_classifier": True, "form": "bottleneck"}),
        {
            "layer2.0.conv2.q.weight": "layer2.0.conv2.conv_q.weight",
            "layer2.0.downsample.0.weight": "layer2.0.downsample.0.weight",
            "classifier.1.cls.bias": "fc.conv.bias",
        },
    ),
    (
        "odconv",
        ("mobilenetv2_035", "odconv", {"policy": "dyconv", "num_kernels": 2}),
        {
            "features.1.conv.0.0.attention.spatial_fc.weight": "blocks.0.0.conv_dw.branch.spatial_fc.weight",
            "features.1.conv.2.bias": "blocks.0.0.bn2.bias",
            "features.2.conv.1.1.running_var": "blocks.1.0.bn2.running_var",
            "features.2.conv.3.weight": "blocks.1.0.bn3.weight",
            "features.18.0.weight": "conv_head.weight",
            "classifier.1.weight": "classifier.weight",
        },
    ),
    (
        "dyconv",
        ("resnet18", "dyconv", {}),
        {
            "layer2.0.downsample.0.attention.fc2.bias": "layer2.0.downsample.0.branch.fc2.bias",
            "fc.weight": "fc.weight",
        },
    ),
]


def fake(model: torch.nn.Module, pairs: dict[str, str], source: str) -> dict[str, torch.Tensor]:
    """A state dict with official names for the pairs; the loader takes the other names, which are ours, as they are."""
    left = ("temperature", "mixing", "num_batches_tracked", "cells")
    renamed = {ours: official for official, ours in pairs.items()}
    root = {"dcd": "classifier.0.", "kernelwarehouse": "classifier.1.conv."}.get(source, "")
    return {
        renamed.get(name) or re.sub(r"^(classifier|fc)\.conv\.", root, name): tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[2] not in left
    }


@pytest.mark.parametrize(
    ("source", "network", "pairs"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_names_of_the_published_networks(source, network, pairs) -> None:
    name, layer, options = network
    model = create_model(name, layer, 7, **options)
    report = load_official(model, fake(model, pairs, source), source)
    mapped = dict(report.mapped)
    assert {official: mapped[official] for official in pairs} == pairs
    assert len(report.mapped) + len(report.kept) == len(model.state_dict())
    assert "classifier" in report.table() or "fc.weight" in report.table()


LAST = ("blocks.5.1.conv_pw", "blocks.5.1.conv_dw", "conv_head", "classifier.conv")


@pytest.mark.parametrize(
    ("variant", "order"),
    [
        # the warehouses as the official files number them: a layer of each
        ("kw1x_resnet18", ["layer1.0.conv1", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"]),
        ("kw1x_resnet50", ["layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"]),
        (
            "kw1d2x_mobilenetv2_050",
            ["conv_stem", "blocks.1.0.conv_dw", *(f"blocks.{stage}.1.conv_dw" for stage in range(1, 5)), *LAST],
        ),
    ],
)
def test_warehouses_are_numbered_as_in_the_official_code(variant, order) -> None:
    model = create_kernelwarehouse(variant, num_classes=16)
    state = fake(model, {}, "kernelwarehouse")
    warehouses = [model.get_submodule(layer).warehouse for layer in order]
    cells = [torch.randn(warehouse.num_cells, *warehouse.cell_shape) for warehouse in warehouses]
    numbered = {f"warehouse_manager.weights.{number}": tensor for number, tensor in enumerate(cells)}
    report = load_official(model, {**state, **numbered}, "kernelwarehouse")
    for warehouse, tensor in zip(warehouses, cells, strict=True):
        assert torch.equal(warehouse.cells, tensor.flatten(1))
    shared = [ours for official, ours in report.mapped if official == "warehouse_manager.weights.1"]
    assert len(shared) > 1 and all(name.endswith(".warehouse.cells") for name in shared)


def test_everything_that_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    model = create_model("resnet18", "dyconv", 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: torch.zeros_like(tensor) for name, tensor in before.items() if "temperature" not in name}
    state["fc.weight"] = torch.zeros(9, 512)
    state["layer1.0.conv1.surprise"] = torch.zeros(1)
    del state["layer4.1.bn2.bias"], state["bn1.weight"]
    with pytest.raises(ValueError, match="do not fit") as error:
        load_official(model, state, "dyconv")
    text = str(error.value)
    assert "2 missing: bn1.weight, layer4.1.bn2.bias" in text
    assert "1 unexpected: layer1.0.conv1.surprise" in text
    assert "fc.weight [9, 512], here fc.weight [5, 512]" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_two_tensors_for_one_place_are_refused() -> None:
    model = create_model("resnet18", num_classes=5)
    state = {**model.state_dict(), "classifier.0.bias": torch.zeros(5)}
    with pytest.raises(ValueError, match=r"classifier.0.bias \(a second one for fc.bias\)"):
        load_official(model, state, "odconv")


def test_files_are_unwrapped(tmp_path) -> None:
    model = create_model("test_resnet", num_classes=5)
    state = {f"module.{name}": tensor + 1 for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    for source in (tmp_path / "w.pth", str(tmp_path / "w.safetensors"), arrays):
        fresh = create_model("test_resnet", num_classes=5)
        report = load_official(fresh, source, "timm")
        assert all(torch.equal(fresh.state_dict()[name], tensor + 1) for name, tensor in model.state_dict().items())
        assert len(report.mapped) == len(state)


def test_wrong_sources_and_networks_are_named() -> None:
    model = create_model("test_efficientnet", num_classes=5)
    with pytest.raises(ValueError, match="did you mean 'odconv'"):
        load_official(model, {"a": torch.zeros(1)}, "od_conv")
    with pytest.raises(ValueError, match="no network like this EfficientNet"):
        load_official(model, {"a": torch.zeros(1)}, "dyconv")
    with pytest.raises(ValueError, match="does not exist"):
        load_official(model, "nowhere.pth", "timm")
    assert set(SOURCES) == {"condconv", "dcd", "dgc", "dyconv", "kernelwarehouse", "odconv", "timm", "weightnet"}


def test_official_weightnet_names() -> None:
    model = create_model("weightnet_shufflenetv2_x0_5", num_classes=7)
    pairs = {
        "first_conv.0.weight": "conv1.0.weight",
        "features.0.reduce.weight": "stage2.0.coefficient_branch.fc.weight",
        "features.4.wnet_proj_1.wn_fc1.bias": "stage3.0.proj_conv1.activation.fc.bias",
        "features.15.wnet3.wn_fc2.weight": "stage4.3.conv3.weight",
        "features.0.bn_proj_2.running_mean": "stage2.0.proj_bn2.running_mean",
        "conv_last.1.bias": "conv5.1.bias",
        "classifier.0.bias": "fc.bias",
    }
    state = fake(model, pairs, "weightnet")
    # MegEngine has five axes where convolutions are grouped, and four where PyTorch has one
    name = "features.15.wnet3.wn_fc2.weight"
    state[name] = state[name].unflatten(0, (192, -1))[..., None, None]
    state["features.0.bn_proj_2.running_mean"] = state["features.0.bn_proj_2.running_mean"].view(1, -1, 1, 1)
    report = load_official(model, state, "weightnet")
    assert pairs.items() <= dict(report.mapped).items()
    assert all(name.endswith("num_batches_tracked") for name in report.kept)
