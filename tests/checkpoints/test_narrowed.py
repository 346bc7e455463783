"""If these fail, official weights of a network at other widths cannot be built, or compute something else here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from dyvision.backbones.published.kernelwarehouse import VARIANTS, add_warehouses
from dyvision.checkpoints import build_network, create_official, load_official
from dyvision.checkpoints.static_networks import static_network

_spec = importlib.util.spec_from_file_location("official_networks", Path(__file__).with_name("official.py"))
_official = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_official)
MobileNetV2, ResNet, WeightNet = _official.MobileNetV2, _official.ResNet, _official.WeightNet

NETWORKS = {
    "odconv resnet18, quarter": ("odconv", lambda: ResNet("odconv", (16, 32, 64, 128), (2, 2, 2, 2), kernel_num=4)),
    "odconv resnet, own stem": (
        "odconv",
        lambda: ResNet("odconv", (20, 24, 40, 56), (1, 2, 1, 1), stem=20, kernel_num=1, classes=3),
    ),
    "odconv resnet50, wide branch": (
        "odconv",
        lambda: ResNet("odconv", (8, 16, 24, 32), (1, 1, 1, 1), True, stem=16, kernel_num=2, reduction=0.25),
    ),
    "odconv mobilenetv2": (
        "odconv",
        lambda: MobileNetV2("odconv", (8, 8, 8, 16, 16, 24, 32, 40, 64), kernel_num=2, reduction=0.125),
    ),
    "dcd resnet18": ("dcd", lambda: ResNet("dcd", (16, 24, 40, 64), (2, 2, 1, 1), stem=16)),
    "dcd resnet18, stem kept": ("dcd", lambda: ResNet("dcd", (16, 32, 64, 128), (2, 2, 2, 2))),
    "dcd resnet50": ("dcd", lambda: ResNet("dcd", (16, 16, 24, 32), (1, 1, 2, 1), True, stem=32, classes=4)),
    "dcd resnet50, branches without width": (
        "dcd",
        lambda: ResNet("dcd", (8, 16, 16, 32), (1, 1, 1, 1), True, stem=8),
    ),
    "dcd mobilenetv2": (
        "dcd",
        lambda: MobileNetV2("dcd", (8, 8, 8, 16, 16, 24, 32, 40, 64), fc_squeeze=8),
    ),
    "dcd mobilenetv2 at width 0.1": (
        "dcd",
        lambda: MobileNetV2("dcd", (4, 4, 4, 4, 8, 12, 16, 32, 128), fc_squeeze=4),
    ),
    "dgc resnet18": ("dgc", lambda: ResNet("dgc", (16, 32, 64, 96), (2, 2, 2, 2))),
    "dgc resnet, two heads": (
        "dgc",
        lambda: ResNet("dgc", (16, 24, 88, 100), (1, 2, 1, 1), stem=16, classes=4, heads=2, squeeze_rate=12),
    ),
    "dyconv resnet18": ("dyconv", lambda: ResNet("dyconv", (16, 24, 32, 48), (1, 1, 1, 1), stem=16, K=3, ratio=0.5)),
    "dyconv resnet18, older file": (
        "dyconv",
        lambda: ResNet("dyconv", (16, 32, 64, 96), (1, 1, 1, 1), stem=16, bias=False, more=0),
    ),
    "dyconv resnext": (
        "dyconv",
        lambda: ResNet("dyconv", (16, 32, 48, 64), (1, 1, 1, 1), True, groups=4, width_per_group=32),
    ),
    "weightnet": ("weightnet", lambda: WeightNet((8, 16, 24, 40, 48))),
    "weightnet 4x": ("weightnet", lambda: WeightNet((8, 16, 24, 40, 48), m=4, g=2)),
}


def agree(ours: torch.nn.Module, expected: torch.Tensor, x: torch.Tensor) -> None:
    assert expected.std(0).max() > 0.01  # otherwise anything would agree
    with torch.no_grad():
        found = ours.double().eval()(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_built_from_their_weights_alone(name) -> None:
    torch.manual_seed(0)
    source, make = NETWORKS[name]
    official = make()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64) + torch.randn(3, 3, 1, 1, dtype=torch.float64)
    official(x)  # parameters and statistics come into being
    expected = official(x)
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in official.state.items()}
    official.state = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    expected = official(x)
    agree(create_official(state), expected, x)
    agree(
        create_official({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, source), expected, x
    )


@pytest.mark.parametrize("method", ["dcd", "odconv"])
def test_widths_in_the_metadata_are_enough(method) -> None:
    # names without shapes, as parity files of other widths describe themselves
    official = ResNet(method, (16, 32, 64, 128), (2, 2, 2, 2), stem=16, kernel_num=4)
    official(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    arguments = {"num_classes": 10, "widths": [16, 32, 64, 128]}
    arguments |= {"kernel_num": 4} if method == "odconv" else {}
    model = build_network(method, f"{method}_resnet18", arguments, {}, list(official.state))
    load_official(model, official.state, method)


def test_condconv_at_another_width(condconv_network) -> None:
    torch.manual_seed(0)
    official = condconv_network(10, 3).double().eval()
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for module in official.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of this batch
    official.train()(x)
    with torch.no_grad():
        official = official.float().double().eval()
        agree(create_official(official.state_dict()), official(x), x)


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        ("kw1x_resnet18", {"widths": [16, 32, 64, 128]}),
        ("kw1d2x_resnet18", {"widths": [16, 32, 64, 128]}),
        ("kw1d2x_mobilenetv2_100", {"width_mult": 0.25}),
        ("kw4x_mobilenetv2_050", {"width_mult": 0.25}),
    ],
)
def test_kernelwarehouse_at_another_width(variant, arguments) -> None:
    names = [f"layer{stage}.{block}.conv1" for stage in range(1, 5) for block in range(2)]
    static = static_network("kernelwarehouse", variant, {"num_classes": 8, **arguments}, [f"{n}.w" for n in names])
    ours = add_warehouses(static, VARIANTS[variant]).eval()
    state = official_names(ours, variant)
    rebuilt = create_official(state)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(x), ours(x), rtol=1e-4, atol=1e-4)


def official_names(model: torch.nn.Module, variant: str) -> dict[str, torch.Tensor]:
    """The state of our network under the official names, by the loader's own table of modules."""
    from dyvision.checkpoints.network_names import module_names, warehouse_layers

    modules = {ours: theirs for theirs, ours in module_names(model, "kernelwarehouse").items()}
    if "1d2x_mobilenetv2" in variant:
        modules["classifier.conv"] = "classifier.1.conv"
    state = {}
    for name, tensor in model.state_dict().items():
        if name.endswith((".cells", ".mixing", ".cell_index", "num_batches_tracked")):
            continue
        prefix = max((p for p in modules if name.startswith(f"{p}.")), key=len, default="")
        renamed = modules[prefix] + name[len(prefix) :] if prefix else name
        state[renamed.replace(".branch.norm.", ".attention.norm1.").replace(".branch.", ".attention.")] = tensor
    for number, layers in enumerate(warehouse_layers(model)):
        warehouse = model.get_submodule(layers[0]).warehouse
        cells = warehouse.cells.detach().view(warehouse.num_cells, *warehouse.cell_shape)
        state[f"warehouse_manager.weights.{number}"] = cells
    return state


def test_weights_of_nothing_known_are_one_line() -> None:
    with pytest.raises(ValueError, match="not clear from the names; give source"):
        create_official({"layer1.0.conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="none of their names starts with"):
        create_official({"a.fc_phi.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="need their name"):
        create_official({"blocks.0.routing_fn.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="dcd_resnet18 has no argument 'widht'"):
        build_network("dcd", "dcd_resnet18", {"widht": 1}, {}, [])
    with pytest.raises(ValueError, match="four numbers, one per stage"):
        build_network("dcd", "resnet18", {"widths": [1, 2]}, {}, [f"layer{i}.0.conv1.w" for i in range(1, 5)])
    with pytest.raises(ValueError, match="replace_stride_with_dilation must be one of"):
        arguments = {"replace_stride_with_dilation": [True, False, False]}
        build_network("dyconv", "resnet50", arguments, {}, [f"layer{i}.0.conv3.w" for i in range(1, 5)])


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_dgc_drops_by_its_progress_in_training_alone(progress) -> None:
    official = ResNet("dgc", (16, 16, 32, 32), (1, 1, 1, 1), stem=16)
    official(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    state = {"global_progress": progress}
    arguments = {"args": {"heads": 4, "squeeze_rate": 16, "gate_factor": 0.25}}
    model = build_network("dgc", "dyresnet18", arguments, state, official.state)
    report = load_official(model, official.state, "dgc")
    assert ("layer2.0.downsample.0.weight", "layer2.0.downsample.0.weight") in report.mapped
    model.eval()(torch.randn(2, 3, 64, 64))
    assert model.layer1[0].conv1.inactive_channels == 8
    model.train()(torch.randn(2, 3, 64, 64))
    assert model.layer1[0].conv1.inactive_channels == (8 if progress == 0 else round(12 * 1.5 * (0.5 - 1 / 12)))


def test_blocks_are_skipped_in_training_as_in_the_official_networks() -> None:
    names = [f"layer{stage}.0.conv1" for stage in range(1, 5)]
    arguments = {"drop_path_rate": 0.3, "widths": [8, 8, 8, 8]}
    model = static_network("kernelwarehouse", "kw_resnet18", arguments, names)
    assert [model.get_submodule(f"layer{stage}.0").drop_path.drop_prob for stage in range(1, 5)] == [0.3] * 4
    arguments = {"drop_path_rate": 0.3, "depths": [1, 1, 1, 1], "dims": [8] * 4, "layer_scale_init_value": 0}
    model = static_network("kernelwarehouse", "kw_convnext_tiny", arguments, [])
    blocks = [stage.blocks[0] for stage in model.stages]
    assert [getattr(block.drop_path, "drop_prob", 0) for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert all(block.gamma is None for block in blocks)
