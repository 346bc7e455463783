"""If these fail, one odd number of channels keeps a whole network from becoming dynamic, or a wrong option goes by."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from dyvision import dynamize
from dyvision.layers import DynamicConv2d

CHANNELS = (58, 30, 10, 5, 24, 64)


def network(kernel=3):
    """Convolutions between numbers of channels that divide by little."""
    pairs = zip((20, *CHANNELS), CHANNELS, strict=False)
    return nn.Sequential(*(nn.Conv2d(i, o, kernel, padding=kernel // 2) for i, o in pairs)).double().eval()


@pytest.mark.parametrize(
    ("layer", "options", "kernel", "expected"),
    [
        ("dgc", {"heads": 4}, 3, lambda layer: layer.heads),
        ("dcd", {"blocks": 4}, 1, lambda layer: layer.blocks),
        ("fdconv", {"num_kernels": 64, "min_channels": 4}, 1, lambda layer: layer.num_kernels),
        ("fdconv", {"bands": {"groups": 4}, "min_channels": 1}, 3, lambda layer: layer.bands and layer.bands.groups),
        ("weightnet", {"generator_groups": 4, "multiplier": 8}, 1, lambda layer: layer.generator_groups),
        ("kernelwarehouse", {"cell_inplane_ratio": 0.3}, 3, lambda layer: layer.warehouse.cell_shape[1]),
    ],
)
def test_a_layer_takes_the_largest_option_that_fits(layer, options, kernel, expected) -> None:
    model, x = network(kernel), torch.randn(2, 20, 7, 6, dtype=torch.float64)
    before, convs = model(x), list(model)
    with pytest.warns(UserWarning, match="does not fit [1-6] of 6 layers, which take the largest that does") as caught:
        model, report = dynamize(model, layer, policy="all", return_report=True, **options)
    assert len(caught) == 1
    assert all(isinstance(made, DynamicConv2d) for made in model)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-6)
    given = next(iter(options.values()))
    for conv, made, row in zip(convs, model, report.rows, strict=True):
        if layer == "dgc":
            assert expected(made) == max(n for n in (1, 2, 3, 4) if conv.out_channels % n == 0)
        if layer == "dcd":
            assert expected(made) == max(n for n in (1, 2, 3, 4) if conv.in_channels % n == conv.out_channels % n == 0)
        if layer == "kernelwarehouse":
            inputs = conv.in_channels
            assert expected(made) == max(n for n in range(1, max(int(0.3 * inputs), 1) + 1) if inputs % n == 0)
        if row.note == "" and isinstance(given, int) and getattr(made, "is_dynamic", True):
            assert expected(made) == given


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("dgc", {"heads": 0}),
        ("dgc", {"heads": "four"}),
        ("dcd", {"blocks": -1}),
        ("dyconv", {"num_kernels": 0}),
        ("fdconv", {"num_kernels": 0}),
        ("fdconv", {"bands": {"groups": 0}, "min_channels": 1}),
        ("weightnet", {"multiplier": 2, "generator_groups": 4}),
        ("kernelwarehouse", {"cell_inplane_ratio": 2.0}),
        ("se", {"reduction": 0}),
    ],
)
def test_what_is_wrong_whatever_the_channels_is_an_error(layer, options) -> None:
    model = network()
    with pytest.raises(ValueError, match=next(iter(options)).split("_")[0]):
        dynamize(model, layer, policy="all", **options)
    assert not any(isinstance(module, DynamicConv2d) for module in model)


def test_a_layer_that_no_value_fits_stays_static() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 40, 1), nn.Conv2d(40, 40, 1))
    options = {"min_channels": 1, "param_reduction": 0.2, "preserve_outputs": False}
    with pytest.warns(UserWarning, match=r"1 convolutions stay static, which no value fits: 0 \(param_reduction=0.2"):
        model, report = dynamize(model, "fdconv", policy="all", return_report=True, **options)
    assert [isinstance(made, DynamicConv2d) for made in model] == [False, True, True]
    assert list(report.static) == ["0"] and "param_reduction" in str(report)
    with pytest.raises(ValueError, match="no layer can be built: 0: param_reduction"):
        dynamize(nn.Sequential(nn.Conv2d(2, 2, 1)), "fdconv", policy="all", **options)


def test_layers_of_a_stage_that_share_cells_fall_together() -> None:
    class BasicBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(30, 30, 3, padding=1), nn.Conv2d(30, 30, 3, padding=1)

        def forward(self, x):
            return self.conv2(self.conv1(x))

    model = nn.Sequential(nn.Conv2d(3, 30, 3), nn.Sequential(BasicBlock(), BasicBlock()))
    x = torch.randn(1, 3, 9, 9)
    expected = model(x)
    with pytest.warns(UserWarning, match=r"cell_inplane_ratio=0\.3 does not fit 4 of 4 layers"):
        dynamize(model, "kernelwarehouse", cell_inplane_ratio=0.3)
    layers = [block.get_submodule(name) for block in model[1] for name in ("conv1", "conv2")]
    assert len({id(layer.warehouse) for layer in layers}) == 1 and layers[0].warehouse.cell_shape[1] == 6
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_what_fits_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dynamize(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 3)), "dgc", policy="all", heads=4)


@pytest.mark.parametrize("layer", ["condconv", "dyconv", "dynet", "odconv"])
def test_a_rank_that_is_too_large_is_the_largest_and_depthwise_layers_keep_whole_kernels(layer) -> None:
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, 12, 1), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, outputs, 1))

    model, x = nn.Sequential(block(6, 8), block(8, 16)).double(), torch.randn(2, 6, 7, 6, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"rank=8 does not fit 1 of 6 layers.*0\.0 \(rank=6\)"):
        dynamize(model, layer, policy="all", bank="tucker", rank=8)
    ranks = [made.ranks for made in model.modules() if isinstance(made, DynamicConv2d)]
    assert ranks == [(6, 6), None, (8, 8), (8, 8), None, (8, 8)]
    model(x).sum().backward()
    exact = nn.Sequential(block(6, 8), block(8, 16)).double()
    before = exact(x)
    torch.testing.assert_close(dynamize(exact, layer, policy="all", bank="tucker", rank=1.0)(x), before)


def test_a_wrong_rank_leaves_the_network_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match=r"DyConv2d: rank must be .* got 1\.5"):
        dynamize(model, "dyconv", policy="all", bank="tucker", rank=1.5)
    assert type(model[0]) is nn.Conv2d
