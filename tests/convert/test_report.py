"""If these fail, the report of a conversion says something else than what happened."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
from torch import nn

from dyvision import create_backbone, create_model, dynamize, list_layers
from dyvision.analysis.macs import count_macs, count_parameters
from dyvision.layers import DynamicConv2d

DYNAMIC = [name for name in list_layers() if name != "static"]


@pytest.mark.parametrize("layer", DYNAMIC)
def test_the_numbers_are_those_of_the_network(layer) -> None:
    x = torch.randn(1, 3, 64, 64)
    model = create_model("mobilenetv2_035", num_classes=5)
    modes = [module.training for module in model.modules()]
    params, macs = count_parameters(model), count_macs(model, x.shape)
    returned, report = dynamize(model, layer, return_report=True, example_input=x)
    assert returned is model and all(module.training for module in model.modules()) and all(modes)
    made = {name: module for name, module in model.named_modules() if isinstance(module, DynamicConv2d)}
    rows = {row.name: row for row in report.rows}
    assert {name for name, row in rows.items() if row.before} == set(made)
    assert all(row.after == type(made[name]).__name__ for name, row in rows.items() if row.before)
    assert (report.params_before, report.params_after) == (params, count_parameters(model))
    assert (report.macs_before, report.macs_after) == (macs, count_macs(model, x.shape))
    assert report.params_after - params == sum(row.params_after - row.params_before for row in report.rows)
    assert report.macs_after - macs == sum(row.macs_after - row.macs_before for row in report.rows)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("create", [create_model, create_backbone])
def test_a_report_is_asked_of_dynamize(create) -> None:
    with pytest.raises(ValueError, match="return_report is an argument of"):
        create("resnet18", "dcd", return_report=True)


def test_a_convolution_counts_as_it_does_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1))
    _, report = dynamize(model, "se", return_report=True, example_input=torch.randn(2, 3, 10, 10), policy="1")
    (row,) = report.rows
    assert (row.name, row.before, row.after) == ("1", "Conv2d", "SEConv2d")
    assert row.params_before == 16 * 8 * 9 + 16 and row.macs_before == 2 * 25 * 16 * 8 * 9
    assert row.params_after == row.params_before + (16 * 8 + 8) + (8 * 16 + 16)
    assert row.macs_after == row.macs_before + 2 * (16 * 8 + 8 * 16)


@pytest.mark.parametrize("layer", DYNAMIC)
def test_the_table_fits_80_columns_and_names_every_layer(layer, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    model = create_model("mobilenetv2_035", num_classes=5)
    _, report = dynamize(model, layer, return_report=True, example_input=torch.randn(1, 3, 32, 32))
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(row.name in line for line in lines) for row in report.rows)
    total = next(line for line in lines if "whole network" in line)
    assert f"{report.params_after:,}" in total


def test_blocks_with_a_branch_per_layer_are_named_with_the_reason() -> None:
    class TrainingBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x):
            return nn.functional.dropout(self.conv(x), 0.5, self.training)

    model = nn.Sequential(nn.Conv2d(3, 6, 3), TrainingBlock(), nn.Sequential())
    with pytest.warns(UserWarning, match="keep a branch each"):
        model, report = dynamize(model, "condconv", return_report=True)
    assert list(report.own_branches) == ["1"] and "training and evaluation" in report.own_branches["1"]
    assert "1 keep a branch per layer: its forward differs" in " ".join(str(report).split())
    shared = create_model("mobilenetv2_035")
    _, report = dynamize(shared, "condconv", return_report=True)
    assert not report.own_branches
    branches = [row for row in report.rows if not row.before]
    assert branches and all(row.name.endswith("coefficient_branch") and row.params_after for row in branches)


def test_convolutions_that_stay_static_are_named() -> None:
    class Own(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Conv2d(3, 6, 3), Own(6, 6, 3))
    with pytest.warns(UserWarning, match="1 convolutions static"):
        _, report = dynamize(model, "dyconv", policy="all", return_report=True)
    assert report.static == {"1": "Own, a class of its own"}
    assert "1 stay static: Own, a class of its own" in str(report)


def test_the_model_keeps_no_trace_of_the_report() -> None:
    torch.manual_seed(0)
    plain = dynamize(create_model("test_resnet"), "dyconv")
    torch.manual_seed(0)
    reported, report = dynamize(create_model("test_resnet"), "dyconv", return_report=True)
    assert list(plain.state_dict()) == list(reported.state_dict())
    assert sorted(vars(plain)) == sorted(vars(reported))
    assert str(pickle.loads(pickle.dumps(report))) == str(report)


def test_single_convolutions_and_static_networks_have_reports_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer, report = dynamize(
            nn.Conv2d(8, 8, 3), "dyconv", return_report=True, example_input=torch.randn(1, 8, 9, 9)
        )
        assert isinstance(layer, DynamicConv2d) and report.rows[0].params_after == report.params_after
        model = nn.Sequential(nn.Conv2d(3, 6, 3))
        same, report = dynamize(model, "static", return_report=True)
    assert same is model and not report.rows and report.params_before == report.params_after == 168
    with pytest.raises(ValueError, match="return_report=True"):
        dynamize(model, "dyconv", example_input=torch.randn(1, 3, 9, 9))


def test_names_of_strangers_do_not_move_the_cursor() -> None:
    model = nn.Sequential()
    model.add_module("[/red]\x1b[2J", nn.Conv2d(3, 6, 3))
    _, report = dynamize(model, "dyconv", policy="all", return_report=True)
    assert "\x1b" not in str(report) and "[/red]" in str(report)


class Attending(nn.Module):
    """A convolution, and attention that PyTorch may compute by one kernel which its counter does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_attention_is_counted() -> None:
    x, model = torch.randn(1, 3, 10, 10), Attending()
    expected = count_macs(model, x.shape)
    assert expected > 2 * 64 * 64 * 8
    _, report = dynamize(model, "dyconv", policy="all", return_report=True, example_input=x)
    assert (report.macs_before, report.macs_after) == (expected, count_macs(model, x.shape))
