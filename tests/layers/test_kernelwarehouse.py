"""If these fail, kernels are put together from the wrong cells, or layers do not share what they should."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from dyvision.backbones.kernelwarehouse import VARIANTS, create_kernelwarehouse
from dyvision.checkpoints.kernelwarehouse import build_layer, layer_state
from dyvision.layers.kernelwarehouse import EPSILON, KernelWarehouseConv2d, share_warehouses
from dyvision.layers.warehouse import own_cells, warehouse_of

SETTINGS = [
    {},
    {"cell_num_ratio": 0.5, "cell_inplane_ratio": 0.5, "cell_outplane_ratio": 0.5},
    {"cell_num_ratio": 0.25, "cell_outplane_ratio": 0.5},
    {"cell_num_ratio": 4, "mixing": 0.3},
    {"spatial_partition": False, "cell_inplane_ratio": 0.5, "cell_num_ratio": 2},
    {"norm_layer": "layernorm", "reduction": 4.0},
]


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def reference(layer: KernelWarehouseConv2d, sample: torch.Tensor, start: int = 0) -> torch.Tensor:
    """One sample; the kernel is filled in piece by piece, the attention written out (evaluation mode)."""
    branch, t = layer.branch, float(layer.mixing)
    cells = layer.warehouse.cells.view(-1, *layer.warehouse.cell_shape)
    count, out_size, in_size, *taps = cells.shape
    hidden = branch.fc1.weight @ sample.mean((1, 2))
    norm = branch.norm
    if layer.norm_layer == "layernorm":
        hidden = F.layer_norm(hidden + branch.fc1.bias, hidden.shape, norm.weight, norm.bias)
    else:
        hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    logits = (branch.fc2.weight @ hidden.relu() + branch.fc2.bias).view(-1, count + 1)
    kernel = torch.zeros(layer.kernel_shape, dtype=sample.dtype)
    out_channels, in_channels, height, width = layer.kernel_shape
    number, ratio, following = 0, layer.cell_num_ratio, start
    for row in range(height // taps[0]):
        for column in range(width // taps[1]):
            for top in range(0, out_channels, out_size):
                for left in range(0, in_channels, in_size):
                    z = logits[number] / (logits[number].abs().sum() + EPSILON)
                    alpha = (1 - t) * z
                    if ratio >= 1:
                        alpha[following] += t
                        following += int(ratio)
                    piece = sum(a * cell for a, cell in zip(alpha[:-1], cells, strict=True))
                    rows = slice(row, row + 1) if taps[0] == 1 else slice(None)
                    columns = slice(column, column + 1) if taps[1] == 1 else slice(None)
                    kernel[top : top + out_size, left : left + in_size, rows, columns] = piece
                    number += 1
    return F.conv2d(sample[None], kernel, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (1, 1), ((3, 2), 2), (3, 8)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_agrees_with_a_kernel_put_together_piece_by_piece(settings, kernel, groups) -> None:
    layer = randomise(KernelWarehouseConv2d(8, 16, kernel, 2, 1, groups=groups, **settings)).double()
    x = torch.randn(3, 8, 7, 9, dtype=torch.float64) + torch.randn(3, 8, 1, 1, dtype=torch.float64)
    layer(x)
    layer.eval()
    expected = torch.cat([reference(layer, sample) for sample in x])
    torch.testing.assert_close(layer(x), expected)


def shared() -> nn.Sequential:
    first = KernelWarehouseConv2d(8, 8, 3, padding=1)
    second = KernelWarehouseConv2d(8, 16, 1)
    net = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second)
    share_warehouses({"stage": [first, second]})
    return net


def test_layers_share_one_parameter() -> None:
    net = randomise(shared()).double()
    first, second = net[0], net[3]
    assert first.warehouse is second.warehouse
    assert first.warehouse.cell_shape == (8, 8, 1, 1) and first.warehouse.num_cells == 9 + 2
    assert second.cell_index.tolist() == [9, 10]
    assert sum(p is first.warehouse.cells for p in net.parameters()) == 1
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    net(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    net.eval()
    for layer, start in ((first, 0), (second, 9)):
        layer.set_mixing(0.4)
        expected = torch.cat([reference(layer, sample, start) for sample in x])
        torch.testing.assert_close(layer(x), expected)


def test_sharing_survives_copies_and_state_dicts() -> None:
    net, x = randomise(shared()).eval(), torch.randn(2, 8, 5, 6)
    expected = net(x)
    other = copy.deepcopy(net)
    assert other[0].warehouse is other[3].warehouse and other[0].warehouse is not net[0].warehouse
    fresh = shared().eval()
    fresh.load_state_dict(net.state_dict())
    for model in (other, fresh, net.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(model(x), expected)
    assert fresh[0].warehouse.cells is fresh[3].warehouse.cells


@pytest.mark.slow
def test_shared_warehouses_compile_and_export() -> None:
    net, x = randomise(shared()).eval(), torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(x), net(x), rtol=1e-4, atol=1e-4)
    batch = torch.export.Dim("batch", min=2, max=16)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 8, 5, 6)
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("settings", [{}, {"cell_num_ratio": 2.5, "cell_inplane_ratio": 0.5}, SETTINGS[4]], ids=str)
def test_starts_from_a_static_convolution_at_any_mixing(settings, mixing) -> None:
    conv = nn.Conv2d(8, 16, 3, padding=1, groups=2)
    layer = KernelWarehouseConv2d.from_conv(conv, mixing=mixing, **settings)
    x = torch.randn(3, 8, 7, 5)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    layer.set_mixing(1 - mixing)  # the schedule runs on: E is a learned bias too
    torch.testing.assert_close(layer(x), conv(x), rtol=3e-3, atol=3e-3)


def test_a_preserved_start_trains_its_attention() -> None:
    layer = KernelWarehouseConv2d.from_conv(nn.Conv2d(8, 16, 3), cell_num_ratio=2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(3, 8, 7, 5)).square().sum().backward()
        optimizer.step()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_mixing_of_one_is_an_ordinary_convolution() -> None:
    layer = randomise(KernelWarehouseConv2d(8, 16, 3, mixing=1.0))
    x = torch.randn(3, 8, 7, 5) + torch.randn(3, 8, 1, 1)
    torch.testing.assert_close(layer(x), torch.cat([layer(sample[None]) for sample in x]))
    layer.train()
    y = layer(2 * x) - layer.bias[:, None, None]
    torch.testing.assert_close(y, 2 * (layer(x) - layer.bias[:, None, None]))
    other = KernelWarehouseConv2d(8, 16, 3)
    other.load_state_dict(layer.state_dict())
    assert other.mixing == 1


def test_own_cells_take_turns_when_there_are_few() -> None:
    # 7 mixtures, one cell for two of them, the place moving on; 9 is the cell of zeros
    assert own_cells(7, 9, 0.5, 3) == ([3, 9, 9, 4, 5, 9, 9], 6)
    assert own_cells(3, 30, 2.5, 4) == ([4, 6, 8], 10)
    # never beyond the last cell
    assert own_cells(4, 1, 0.25, 1) == ([1, 1, 1, 1], 1)


def test_a_basis_replaces_the_coefficients_of_others() -> None:
    layers = [KernelWarehouseConv2d(16, 16, 3, cell_inplane_ratio=0.25, nonlocal_basis_ratio=0.1) for _ in range(2)]
    share_warehouses({"a": layers})
    assert layers[1].branch.fc3.weight.shape == (36, 16)
    x = torch.randn(3, 16, 7, 5)
    for layer in layers:
        randomise(layer)(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layers[1].parameters())
    conv = nn.Conv2d(16, 16, 3)
    with torch.no_grad():
        layers[1].load_static(conv.weight, conv.bias)
    torch.testing.assert_close(layers[1](x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"cell_num_ratio": 0}, "cell_num_ratio must be positive, got 0"),
        ({"cell_inplane_ratio": 1.5}, r"cell_inplane_ratio must be in \(0, 1\]"),
        ({"cell_outplane_ratio": 0.2}, "cell_outplane_ratio=0.2 of 16 channels is 3"),
        ({"cell_inplane_ratio": 0.7}, "cell_inplane_ratio=0.7 of 8 channels is 5"),
        ({"norm_layer": "group"}, "norm_layer must be one of batchnorm, layernorm"),
        ({"mixing": 2.0}, "mixing must be in"),
        ({"reduction": -1}, "reduction must be positive"),
    ],
)
def test_bad_arguments_are_named(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        KernelWarehouseConv2d(8, 16, 3, **arguments)


def test_what_cannot_be_shared_or_preserved() -> None:
    whole = [KernelWarehouseConv2d(8, 8, size, spatial_partition=False) for size in (1, 3)]
    with pytest.raises(ValueError, match="kernel_size must be the same"):
        share_warehouses({"a": whole})
    with pytest.raises(ValueError, match="cell_num_ratio must be the same"):
        share_warehouses({"a": [KernelWarehouseConv2d(8, 8, 3, cell_num_ratio=ratio) for ratio in (1, 2)]})
    with pytest.raises(ValueError, match="'a' has no layers"):
        share_warehouses({"a": []})
    with pytest.raises(ValueError, match=r"cell_num_ratio=0.5: fewer cells.*preserve_outputs=False"):
        KernelWarehouseConv2d.from_conv(nn.Conv2d(8, 8, 3), cell_num_ratio=0.5)


def test_names_of_warehouses() -> None:
    assert warehouse_of("stage0_layer1_pwconv2", ("layer", "pwconv")) == "stage0_layer_pwconv"
    assert warehouse_of("stage0_layer1_dwconv0", ("layer", "pwconv")) == "stage0_layer_dwconv0"


def test_official_arguments() -> None:
    conv = {"in_planes": 8, "out_planes": 8, "bias": False}
    convs = [
        {**conv, "warehouse_name": "stage0_layer0_conv0", "kernel_size": 3, "padding": 1},
        {**conv, "warehouse_name": "stage0_layer1_conv0", "enabled": False},
        {**conv, "warehouse_name": "stage1_layer0_conv0"},
    ]
    manager = {"sharing_range": "layer_conv", "cell_num_ratio": [2, 3], "norm_layer": "LayerNorm"}
    net = build_layer("Warehouse_Manager + KWConv2d", {"manager": manager, "convs": convs}, {"temp_value": 0.25})
    assert [warehouse.num_cells for warehouse in net.warehouses] == [18, 3]
    assert isinstance(net.convs[1], nn.Conv2d) and net.convs[2].mixing == 0.25
    assert net(torch.randn(2, 8, 5, 6)).shape == (2, 8, 5, 6)
    official = {"warehouse_manager.weights.0": torch.zeros(3, 2, 2, 1, 1), "attention.norm1.bias": torch.zeros(2)}
    assert set(layer_state(official)) == {"warehouses.0.cells", "branch.norm.bias"}
    with pytest.raises(ValueError, match="official_class must be"):
        build_layer("KWConv1d", {}, {})


# parameters of the official networks, as executed
PARAMETERS = {"kw1x_mobilenetv2_050": 2854522, "kw1d2x_mobilenetv2_050": 1466888, "kw1d4x_resnet18": 4031768}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_networks(name) -> None:
    model = create_kernelwarehouse(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_a_published_network_starts_from_the_static_one() -> None:
    torch.manual_seed(0)
    static = timm.create_model("mobilenetv2_050", num_classes=7).eval()
    torch.manual_seed(0)
    model = create_kernelwarehouse("kw1x_mobilenetv2_050", 7, preserve_outputs=True).eval()
    x = torch.randn(2, 3, 32, 32)
    error = (model(x) - static(x)).abs().max() / static(x).abs().max()
    assert error < 1e-5


def test_unknown_network() -> None:
    assert len(VARIANTS) == 15
    with pytest.raises(ValueError, match="unknown KernelWarehouse network"):
        create_kernelwarehouse("kw3x_resnet18")
