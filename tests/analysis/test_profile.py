"""If these fail, costs in tables and papers are wrong: totals, their split by purpose, and what a module is charged."""

from __future__ import annotations

import argparse
import gc
import json
import weakref

import pytest
import torch
from torch import nn

from dyvision.analysis import count_macs, count_parameters, profile
from dyvision.analysis.cost import Call, Cost, cheapest_cost, convolution
from dyvision.analysis.profile import stage_of
from dyvision.backbones import create_backbone, create_model
from dyvision.cli.profile import add_profile
from dyvision.layers import CondConv2d, DCDConv2d, DyConv2d, DynamicConv2d, get_layer, list_layers
from dyvision.layers.dgc import DGConv2d
from dyvision.layers.odconv import ODConv2d
from dyvision.layers.weightnet import WeightNetConv2d

SMALL = (1, 3, 64, 64)
LAYERS = [name for name in list_layers() if name != "static"]


def one(layer: DynamicConv2d, size: tuple[int, ...], **options: bool) -> Cost:
    return profile(layer.eval(), size, latency=False, **options).cost


@pytest.mark.parametrize(
    ("name", "layer", "millions"),
    [
        ("resnet18", "static", 1814.1),
        ("mobilenetv2_100", "static", 300.8),
        # published: 326, with a dynamic classifier of 0.2
        ("mobilenetv2_100", "dcd", 327.3),
        ("mobilenetv2_050", "dcd", 104.1),
        ("resnet18", "dcd", 1835.5),
        ("resnet18", "dyconv", 1859.0),
    ],
)
def test_published_networks(name, layer, millions):
    model = create_model(name, layer=layer)
    result = profile(model, latency=False)
    assert round(result.macs / 1e6, 1) == millions
    assert result.params == count_parameters(model)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer(layer):
    model = create_model("resnet18", layer=layer)
    executed = profile(model, SMALL, as_executed=True, latency=False)
    assert executed.macs == count_macs(model, SMALL)
    cheapest = profile(model, SMALL, latency=False)
    assert cheapest.params == executed.params == count_parameters(model)
    assert cheapest.cost.branch == executed.cost.branch > 0
    assert cheapest.cost.mixing > 0 or layer == "drconv"
    one_convolution = profile(create_model("resnet18"), SMALL, latency=False).macs
    assert cheapest.cost.static + cheapest.cost.dynamic == one_convolution
    # each rule is a rule of its own, and costs are those of a batch
    assert cheapest_cost.dispatch(get_layer(layer)) is not cheapest_cost.dispatch(object)
    assert profile(model, (2, *SMALL[1:]), latency=False).macs == 2 * cheapest.macs


def test_the_network_is_freed_afterwards():
    model = create_model("test_resnet", layer="dyconv")
    profile(model, SMALL, latency=False)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_mixing_by_hand():
    numbers, positions = 8 * 4 * 9, 6 * 6
    kernels = CondConv2d(4, 8, 3, padding=1, num_kernels=5)
    assert one(kernels, (2, 4, 6, 6)) == Cost(0, 2 * numbers * positions, 2 * 4 * 5, 2 * 5 * (numbers + 8))
    # on a single position, mixing two outputs is cheaper than mixing two kernels
    outputs = DyConv2d(4, 8, 1, num_kernels=2, bias=False)
    assert one(outputs, (1, 4, 1, 1)).mixing == 8 * 4 + 2 * 8
    generated = WeightNetConv2d(4, 8, 3, padding=1, multiplier=4, bias=False)
    assert one(generated, (1, 4, 6, 6)).mixing == 2 * numbers


def test_dcd_takes_the_cheaper_form():
    layer = DCDConv2d(32, 64, 1, rank=8, bias=False)
    fold, scale = 8 * 8 * 64 + 8 * 64 * 32, 64 * 32
    assert one(layer, (1, 32, 20, 20)).mixing == fold + scale
    maps = 8 * (32 + 8 + 64) * 4
    assert one(layer, (1, 32, 2, 2)).mixing == maps + 64 * 4
    # P also maps the shifts of the BatchNorms
    assert one(layer, (1, 32, 2, 2), as_executed=True).mixing == maps + 8 * 64


def test_odconv_gates():
    layer = ODConv2d(16, 16, 1, num_kernels=1, bias=False)
    # a 1x1 kernel scaled once by the outer product of both gates; on a single position both maps
    assert one(layer, (1, 16, 40, 40)).mixing == 2 * 16 * 16
    assert one(layer, (1, 16, 1, 1)).mixing == 16 + 16


@pytest.mark.parametrize("name", ["condconv", "dyconv", "dynet", "odconv"])
@pytest.mark.parametrize(("kernel", "rank"), [(3, 0.25), (3, 0.5), (1, 0.5), (1, 1.0)])
def test_a_factorised_bank(name, kernel, rank):
    layer = get_layer(name)(32, 48, kernel, padding=kernel // 2, num_kernels=4, bias=False, bank="tucker", rank=rank)
    size = (2, 32, 10, 10)
    found, executed = one(layer, size), one(layer, size, as_executed=True)
    inputs, outputs = layer.ranks.inputs, layer.ranks.outputs
    positions, taps = 2 * 100, kernel**2
    core, numbers = outputs * inputs * taps, 48 * 32 * taps
    if name == "dynet":
        cores = positions * (inputs * 32 + 48 * inputs * taps)
    else:
        cores = positions * (inputs * 32 + core + outputs * 48)
    if layer.uses_factors(torch.zeros(size)):
        assert found.static == positions * (inputs * 32 + (0 if name == "dynet" else outputs * 48))
        assert found.static + found.dynamic == cores <= positions * numbers
    else:
        assert (found.static, found.dynamic) == (0, positions * numbers)
    assert (found.static, found.dynamic, found.branch) == (executed.static, executed.dynamic, executed.branch)
    if name in ("condconv", "dyconv", "dynet"):  # gates of maps are no products
        assert found == executed
    if kernel == 3:
        whole = one(get_layer(name)(32, 48, kernel, padding=1, num_kernels=4, bias=False), size)
        assert found.total < (0.5 if rank == 0.25 else 0.8) * whole.total


def test_a_network_with_factorised_banks():
    static, dynamic = create_model("resnet18"), create_model("resnet18", layer="dyconv", bank="tucker", rank=0.25)
    result = profile(dynamic, SMALL, latency=False)
    assert result.params == count_parameters(dynamic) < count_parameters(static)
    assert result.macs < profile(static, SMALL, latency=False).macs / 2
    assert profile(dynamic, SMALL, as_executed=True, latency=False).macs == count_macs(dynamic, SMALL) == result.macs


def test_dropped_channels_cost_nothing():
    layer = DGConv2d(16, 32, 3, padding=1, bias=False)
    dense = one(layer, (1, 16, 9, 9))
    layer.set_progress(1.0)
    assert one(layer, (1, 16, 9, 9)).dynamic * 4 == dense.dynamic
    assert one(layer, (1, 16, 9, 9), as_executed=True).dynamic == dense.dynamic


def test_a_layer_of_ones_own():
    class Own(DyConv2d):
        pass

    assert cheapest_cost.dispatch(Own) is cheapest_cost.dispatch(DyConv2d)
    call = Call((2, 4, 8, 8), (2, 8, 4, 4), executed=10_000, branch=100)
    layer = nn.Module()
    layer.kernel_shape = (8, 4, 3, 3)
    assert convolution(layer, call) == 2 * 16 * 288
    assert cheapest_cost(layer, call) == Cost(0, 9216, 100, 10_000 - 9216 - 100)


def test_lists_of_maps_shared_branches_and_state():
    backbone = create_backbone("mobilenetv2_035", layer="condconv").train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    result = profile(backbone, (2, 3, 40, 72), runs=1)
    assert backbone.training and backbone.body.bn1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    branches = [row for row in result.rows if row.name.endswith("coefficient_branch")]
    assert branches and all(row.calls == 1 and row.cost.total == row.cost.branch > 0 for row in branches)
    assert sum(row.cost.branch for row in branches) == result.cost.branch
    assert result.latency_ms > 0 and all(row.latency_ms >= 0 for row in result.rows)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


def test_modules_called_twice_and_matrices_outside_modules():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, bias=False)
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            y = self.conv(self.conv(x))
            return {"maps": [torch.bmm(y[:, 0], y[:, 1])]}

    rows = {row.name: row for row in profile(Twice(), (1, 3, 5, 5), latency=False).rows}
    assert (rows["conv"].calls, rows["conv"].cost, rows["conv"].params) == (2, Cost(static=2 * 9 * 25), 9)
    assert rows[""].cost == Cost(static=5**3)
    assert (rows["unused"].calls, rows["unused"].params, rows["unused"].output_shape) == (0, 6, None)


def test_activations_are_what_autograd_keeps():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    # the input, and the result of ReLU for itself and the second convolution: once
    assert profile(model, (2, 3, 5, 5), latency=False).activation_bytes == 4 * 2 * 25 * (3 + 4)
    assert profile(model.requires_grad_(False), (2, 3, 5, 5), latency=False).activation_bytes == 0


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("layer1.0.conv1", "layer1"),
        ("body.blocks.3.0.conv_pw", "body.blocks.3"),
        ("stages.2.blocks.0.mlp.fc1", "stages.2"),
        ("roi_heads.box_head.fc6", "roi_heads.box_head"),
        ("conv1", "conv1"),
        ("", "(model)"),
    ],
)
def test_stages(name, stage):
    assert stage_of(name) == stage


def test_report(tmp_path):
    result = profile(create_model("resnet18", layer="dcd"), SMALL, latency=False)
    content = json.loads(json.dumps(result.to_dict()))
    for layers in ("layers", "stages"):
        entries = content[layers] if layers == "layers" else content[layers].values()
        assert sum(entry["macs"] for entry in entries) == content["macs"] == result.macs
    assert sum(entry["params"] for entry in content["layers"]) == content["params"]
    assert list(content["stages"]) == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert "cheapest exact formulation" in result.table().caption
    assert "as executed" in profile(nn.Conv2d(3, 3, 1), SMALL, as_executed=True, latency=False).counted
    result.save_picture(tmp_path / "stages.png", "resnet18")
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="suffix must be one of"):
        result.save_picture(tmp_path / "stages.xyz")


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    add_profile(parser.add_subparsers())
    options = parser.parse_args(["profile", *arguments])
    options.run(options)


def test_command(tmp_path, capsys):
    files = [f"--json={tmp_path / 'new' / 'cost.json'}", f"--picture={tmp_path / 'new' / 'cost.svg'}"]
    run("mobilenetv2_035", "--layer=dcd", "--input-size=32x64", "--batch=2", *files)
    shown = capsys.readouterr().out
    words = " ".join(shown.split())  # lines break where the terminal ends
    assert "blocks.1.0.conv_pw" in shown and "total" in shown and "cheapest exact formulation" in words
    content = json.loads((tmp_path / "new" / "cost.json").read_text())
    assert (content["model"], content["layer"], content["input_size"]) == ("mobilenetv2_035", "dcd", [2, 3, 32, 64])
    assert content["latency_ms"] > 0
    assert "<svg" in (tmp_path / "new" / "cost.svg").read_text()
    run("mobilenetv2_035", "--input-size=32", "--no-latency", "--as-executed", "--json=-")
    printed = json.loads(capsys.readouterr().out)
    assert printed["as_executed"] and printed["latency_ms"] is None


def test_errors(capsys):
    with pytest.raises(ValueError, match="four positive integers"):
        profile(nn.Conv2d(3, 3, 1), (3, 8, 8))
    with pytest.raises(ValueError, match="runs must be at least 1"):
        profile(nn.Conv2d(3, 3, 1), SMALL, runs=0)
    with pytest.raises(ValueError, match="--batch must be at least 1"):
        run("resnet18", "--batch=0")
    with pytest.raises(ValueError, match="--device cuda:77 is not available here; there is cpu"):
        run("resnet18", "--device=cuda:77")
    with pytest.raises(SystemExit):
        run("resnet18", "--input-size=0")
    assert "HEIGHTxWIDTH, not '0'" in capsys.readouterr().err
