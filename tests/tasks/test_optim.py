"""If these failed, a run would train with another learning rate or weight decay than its configuration says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from dyvision.layers import CoefficientBranch
from dyvision.tasks.optim import build_optimizer, build_schedule, parameter_groups, warmup_length

OPTIONS = {
    "optimizer": "adamw", "lr": 0.1, "weight_decay": 0.02, "backbone_lr_scale": 0.5, "head_lr_scale": 2.0,
    "lr_schedule": "constant", "warmup_steps": 0,
}  # fmt: skip


class Branch(CoefficientBranch):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Branch())
        self.kernel_bias = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(2, 5))})
        self.head = nn.Linear(4, 2)
        self.norm = nn.LayerNorm([2, 3])
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def names_by_group(network: nn.Module, groups: list[dict]) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


def test_groups():
    network = Network()
    groups = parameter_groups(network, list(network.body.parameters()), OPTIONS)
    assert names_by_group(network, groups) == {
        "backbone": {"body.0.weight"},
        "backbone_no_decay": {
            "body.0.bias", "body.1.weight", "body.1.bias", "body.2.fc.weight", "body.2.fc.bias",
        },
        "head": {"head.weight"},
        "head_no_decay": {"head.bias", "norm.weight", "norm.bias", "kernel_bias.bias"},
    }  # fmt: skip
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in groups} == {
        "backbone": (0.05, 0.02), "backbone_no_decay": (0.05, 0.0), "head": (0.2, 0.02), "head_no_decay": (0.2, 0.0),
    }  # fmt: skip


def test_a_norm_in_a_module_called_norm_act_leaves_the_convolution_alone():
    class ConvNormAct(nn.Sequential):
        pass

    network = ConvNormAct(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    groups = names_by_group(network, parameter_groups(network, [], OPTIONS))
    assert groups == {"head": {"0.weight"}, "head_no_decay": {"1.weight", "1.bias"}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("sgd", (torch.optim.SGD, {"momentum": 0.9})),
        ("AdamW", (torch.optim.AdamW, {})),
        ("rmsprop", (torch.optim.RMSprop, {})),
        ({"name": "sgd", "momentum": 0.5, "nesterov": True}, (torch.optim.SGD, {"momentum": 0.5, "nesterov": True})),
        (
            {"class_path": "torch.optim.Adam", "init_args": {"betas": [0.8, 0.9]}},
            (torch.optim.Adam, {"betas": (0.8, 0.9)}),
        ),
    ],
)
def test_optimizer_by_name_and_class(spec, expected):
    optimizer = build_optimizer({**OPTIONS, "optimizer": spec}, [{"params": [nn.Parameter(torch.zeros(2, 2))]}])
    assert type(optimizer) is expected[0]
    for name, value in expected[1].items():
        assert optimizer.defaults[name] == value
    assert optimizer.defaults["weight_decay"] == 0.02


def test_an_optimizers_own_lr_and_decay_win_and_keep_the_scales():
    network = Network()
    options = {**OPTIONS, "optimizer": {"name": "sgd", "lr": 1.0, "weight_decay": 0.5}}
    optimizer = build_optimizer(options, parameter_groups(network, list(network.body.parameters()), options))
    values = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert values == {
        "backbone": (0.5, 0.5), "backbone_no_decay": (0.5, 0.0), "head": (2.0, 0.5), "head_no_decay": (2.0, 0.0),
    }  # fmt: skip


def learning_rates(options: dict, steps: int) -> list[float]:
    options = {**OPTIONS, **options, "lr": 1.0}
    optimizer = build_optimizer({**options, "optimizer": "sgd"}, [{"params": [nn.Parameter(torch.zeros(1))]}])
    schedule = build_schedule(options, optimizer, steps)
    assert schedule["interval"] == "step"
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1.0] * 6),
        ("constant", 4, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]),
        ("cosine", 0, [0.5 * (1 + math.cos(math.pi * t / 6)) for t in range(6)]),
        ("cosine", 1 / 3, [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4))]),
        ("poly", 0, [(1 - t / 6) ** 0.9 for t in range(6)]),
        ({"name": "poly", "power": 2, "min_ratio": 0.1}, 0, [0.1 + 0.9 * (1 - t / 6) ** 2 for t in range(6)]),
        ({"name": "multistep", "milestones": [2, 4]}, 0, [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ({"name": "multistep", "milestones": [0.5], "gamma": 0.5}, 2, [0.5, 1, 1, 0.5, 0.5, 0.5]),
    ],
)
def test_schedule_values(schedule, warmup, expected):
    assert learning_rates({"lr_schedule": schedule, "warmup_steps": warmup}, 6) == pytest.approx(expected)


def test_schedule_by_class():
    early = {"name": "poly", "power": 1.0, "total_steps": 4}
    assert learning_rates({"lr_schedule": early}, 2) == pytest.approx([1, 0.75])
    schedule = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2, "gamma": 0.5}}
    assert learning_rates({"lr_schedule": schedule}, 4) == pytest.approx([1, 1, 0.5, 0.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_schedule": {"name": "cosine", "powr": 2}}, "has no argument 'powr'"),
        ({"lr_schedule": {"nam": "cosine"}}, "exactly one of"),
        ({"lr_schedule": {"name": "cosine", "total_steps": 0}}, "total_steps=.*expected an integer of at least 1"),
        ({"optimizer": {"class_path": "torch.optim.Adamm"}}, "did you mean.*Adam"),
        ({"optimizer": {"class_path": "torchh.optim.Adam"}}, "cannot import 'torchh.optim'"),
        ({"optimizer": {"class_path": "torch.optim.Adam", "betas": [0, 0]}}, "init_args"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"warmup_steps": -3}, "warmup_steps=-3"),
        ({"warmup_steps": 2.5}, "warmup_steps=2.5"),
    ],
)
def test_errors(options, message):
    options = {**OPTIONS, **options}
    with pytest.raises(ValueError, match=message):
        build_schedule(options, build_optimizer(options, [{"params": [nn.Parameter(torch.zeros(1))]}]), 10)


def torchs(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": arguments}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_schedule": torchs("LambdaLR", lr_lambda="text")}, "LambdaLR.*lr_lambda is a function, which no config"),
        ({"lr_schedule": torchs("MultiplicativeLR", lr_lambda=3)}, "MultiplicativeLR"),
        ({"lr_schedule": torchs("StepLR", step_size="x")}, "StepLR"),
        ({"lr_schedule": torchs("StepLR", step_size=0)}, "StepLR"),
        ({"lr_schedule": torchs("OneCycleLR", max_lr=0.1)}, "OneCycleLR.*total_steps"),
        ({"lr_schedule": torchs("SequentialLR", schedulers=[], milestones=[])}, "SequentialLR"),
        ({"lr_schedule": torchs("StepLR", step_size=1, interval="x")}, "interval='x': expected 'step' or 'epoch'"),
        ({"lr_schedule": torchs("CosineAnnealingLR", T_max=0)}, "CosineAnnealingLR"),
    ],
)
def test_schedules_that_cannot_run_are_refused_where_they_enter(options, message):
    with pytest.raises(ValueError, match=message):
        build_schedule({**OPTIONS, "optimizer": "sgd", **options}, None, 10)


@pytest.mark.parametrize(
    "schedule",
    [
        torchs("CyclicLR", base_lr=[0.1, 0.1, 0.1], max_lr=0.2),
        torchs("OneCycleLR", max_lr=[0.1, 0.2], total_steps=9),
        torchs("ReduceLROnPlateau", min_lr=[0.1] * 4),
    ],
)
def test_schedules_may_have_a_value_for_each_group(schedule):
    assert build_schedule({**OPTIONS, "optimizer": "sgd", "lr_schedule": schedule}, None, 10)["scheduler"] is None


def test_a_schedule_without_an_end_says_what_to_set():
    with pytest.raises(ValueError, match=r"trainer.max_epochs or trainer.max_steps"):
        build_schedule({**OPTIONS, "lr_schedule": "poly"}, None, math.inf)


def test_warmup_length():
    assert warmup_length(0.25, 200) == 50
    assert warmup_length(1, 200) == 1
    assert warmup_length(500, 200) == 500
