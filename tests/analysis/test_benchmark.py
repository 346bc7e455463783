"""Ratios on an artificial clock, peak memory worked out by hand, and shapes against the networks' own layers."""

from __future__ import annotations

import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyvision.analysis.benchmark import Comparison, compare, make_timer, measure_peak_memory, time_calls
from dyvision.analysis.benchmark.cases import (
    ConvShape,
    Setting,
    make_groups,
    operator_runs,
    trace_shapes,
    training_run,
)
from dyvision.backbones import create_model
from dyvision.ops import FORMULATIONS
from dyvision.ops.geometry import Geometry

CPU = torch.device("cpu")


class Machine:
    """A clock that functions move; the machine becomes slower with every round."""

    def __init__(self) -> None:
        self.now, self.slowness, self.calls = 0.0, 1.0, []

    def work(self, name: str, seconds: float):
        def run() -> None:
            self.calls.append(name)
            self.now += seconds * self.slowness

        return run

    def timer(self, run, calls: int) -> float:
        before = self.now
        for _ in range(calls):
            run()
        return self.now - before


def test_arguments_of_layers_are_those_of_the_networks_and_in_their_names() -> None:
    (group,) = make_groups(["test_resnet"], ["dyconv"], {"bank": "tucker", "rank": 0.5})
    assert list(group.builders) == ["static", "dyconv K=4 bank=tucker rank=0.5"]
    model = group.builders["dyconv K=4 bank=tucker rank=0.5"]()
    assert any(getattr(layer, "ranks", None) for layer in model.modules())


def test_ratio_does_not_see_the_machine_slowing_down() -> None:
    machine = Machine()
    runs = {"static": machine.work("static", 0.1), "slow": machine.work("slow", 0.3)}
    plain = machine.timer

    def slowing(run, calls: int) -> float:
        if len(machine.calls) % 2 == 0:
            machine.slowness *= 1.5
        return plain(run, calls)

    found = compare(runs, rounds=9, timer=slowing)
    assert found.rounds == 9
    assert found.ratio("slow", "static").median == pytest.approx(3)
    assert found.ratio("slow", "static").low == pytest.approx(found.ratio("slow", "static").high)
    # while the times themselves grow
    assert found.seconds["static"][-1] > 10 * found.seconds["static"][0]
    assert found.fastest(["slow", "static"]) == "static"


def test_functions_take_turns() -> None:
    machine = Machine()
    compare({name: machine.work(name, 1.0) for name in "abc"}, rounds=4, warmup=2, timer=machine.timer)
    assert machine.calls[:6] == list("aabbcc")  # warming up
    assert machine.calls[6:] == list("abcbcacababc")


def test_short_functions_are_called_several_times() -> None:
    machine = Machine()
    found = compare({"short": machine.work("s", 0.0005), "long": machine.work("l", 1.0)}, 3, 1, timer=machine.timer)
    assert machine.calls.count("s") == 1 + 3 * 4 and machine.calls.count("l") == 1 + 3
    assert found.milliseconds("short") == pytest.approx(0.5)
    assert found.ratio("long", "short").median == pytest.approx(2000)


def test_budget_ends_the_rounds_but_leaves_three() -> None:
    machine = Machine()
    runs = {"a": machine.work("a", 2.0), "b": machine.work("b", 3.0)}
    assert compare(runs, 15, budget=22, timer=machine.timer).rounds == 5
    assert compare(runs, 15, budget=0.1, timer=machine.timer).rounds == 3
    assert compare(runs, 15, timer=machine.timer).rounds == 15


def test_percentiles() -> None:
    found = Comparison({"a": [float(index) for index in range(1, 12)], "b": [1.0] * 11})
    ratio = found.ratio("a", "b")
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((2, 6, 10))
    assert str(ratio) == "6.00 [2.00-10.00]"
    assert found.milliseconds("a") == 1e3 * statistics.median(found.seconds["a"])


def test_default_timer_measures_this_process() -> None:
    calls = []
    assert time_calls(lambda: calls.append(1), 7) > 0 and len(calls) == 7
    assert make_timer(CPU) is time_calls


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"runs": {}}, "at least one function"),
        ({"rounds": 2}, "rounds must be at least 3, got 2"),
        ({"warmup": 0}, "warmup must be at least 1, got 0"),
    ],
)
def test_errors(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        compare(**{"runs": {"a": lambda: None}, **arguments})


def test_memory_counts_what_lives_at_once() -> None:
    x = torch.zeros(1000)  # 4000 bytes, there before: not counted

    def chain() -> None:
        y = x + 1
        for _ in range(5):
            y = y.view(10, 100) + 1  # the old one is freed after the new one exists; views cost nothing
        y.add_(1)

    assert measure_peak_memory(chain, nn.Identity(), CPU) == 2 * 4000

    def keeping() -> None:
        kept = [x + index for index in range(5)]
        del kept

    assert measure_peak_memory(keeping, nn.Identity(), CPU) == 5 * 4000


def test_memory_of_a_training_step() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000))

        def forward(self, x):
            return ((x * self.weight).exp()).sum()

    model, x = Square(), torch.zeros(1000)

    def step() -> None:
        model.weight.grad = None
        model(x).backward()

    # the weight; in the forward pass the product and its exponential, in the backward pass the exponential (kept) and
    # the product's gradient, then that and the weight's; and two scalars, the loss and its gradient
    found = measure_peak_memory(step, model, CPU)
    assert found == pytest.approx(4000 + 2 * 4000 + 2 * 4, abs=8)
    assert measure_peak_memory(step, model, CPU) == found


def test_memory_of_training_grows_with_the_batch_and_leaves_the_gradients() -> None:
    model = create_model("test_resnet", num_classes=10).train()
    parameters = sum(4 * parameter.numel() for parameter in model.parameters())
    found = []
    for batch in (2, 4, 6):
        run = training_run(model, torch.randn(batch, 3, 32, 32), torch.float32)
        run()
        model.zero_grad(set_to_none=True)
        found.append(measure_peak_memory(run, model, CPU))
        assert all(parameter.grad is not None for parameter in model.parameters())
    assert found[0] > parameters
    assert found[2] - found[1] == pytest.approx(found[1] - found[0], rel=0.2) and found[1] > found[0]


@pytest.mark.parametrize("network", ["test_resnet", "tf_efficientnet_lite0", "resnext50_32x4d"])
def test_shapes_are_those_of_the_networks_convolutions(network) -> None:
    model = create_model(network)
    shapes = trace_shapes(model, 64)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(shapes.values()) == len(convs)
    expected = sorted((c.in_channels, c.out_channels, c.kernel_size, c.stride, c.groups) for c in convs)
    traced = [
        (s.in_channels, s.out_channels, s.kernel, s.geometry.stride, s.geometry.groups)
        for s, n in shapes.items()
        for _ in range(n)
    ]
    assert sorted(traced) == expected
    # the last one comes out in the size of the network's last map
    last = list(shapes)[-1]
    weight = torch.zeros(last.out_channels, last.in_channels // last.geometry.groups, *last.kernel)
    assert F.conv2d(torch.zeros(1, last.in_channels, *last.size), weight, **last.arguments).shape[-2:] == (2, 2)


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("kernel", [1, 3])
def test_operators_compute_the_same(kernel, groups) -> None:
    pad = (kernel // 2, kernel // 2)
    shape = ConvShape(8, 8, (kernel, kernel), (9, 7), Geometry((2, 2), pad, (1, 1), groups))
    with torch.inference_mode():
        outputs = {name: run() for name, run in operator_runs(shape, 3, Setting(CPU), formulations=True).items()}
    assert {output.shape for output in outputs.values()} == {(3, 8, 5, 4)}
    assert ("timm" in outputs) == (kernel == 1)
    forced = [name for name in outputs if name in FORMULATIONS]
    assert {"grouped", "loop", "mix_outputs"} <= set(forced) and ("matmul" in forced) <= (kernel == 1)
    for name in forced:
        torch.testing.assert_close(outputs[name], outputs["mixture"], rtol=1e-4, atol=1e-5)


def test_default_groups() -> None:
    groups = {group.name.partition(",")[0]: group for group in make_groups()}
    assert list(groups["resnet18"].builders) == ["static", "odconv K=4", "dyconv K=4", "condconv K=8", "dcd"]
    rivals = groups["efficientnet_b0"]
    assert list(rivals.builders) == ["static", "condconv K=8", "timm efficientnet_cc_b0_8e"]
    assert rivals.pairs == (("condconv K=8", "static"), ("timm efficientnet_cc_b0_8e", "static"))
    assert groups["dy_resnet50"].pairs == (("dynet", "static"), ("dynet", "fixed"), ("fixed", "static"))


def test_chosen_groups() -> None:
    first, second = make_groups(["test_resnet", "dy_mobilenetv3_small"], ["static", "dcd", "dcd"])
    assert list(first.builders) == ["static", "dcd"] and first.pairs == (("dcd", "static"),)
    assert any("DCD" in type(module).__name__ for module in first.builders["dcd"]().modules())
    assert not any("DCD" in type(module).__name__ for module in first.builders["static"]().modules())
    assert second.pairs == (("dynet", "fixed"),)
    with pytest.raises(ValueError, match="did you mean 'odconv'"):
        make_groups(["test_resnet"], ["odcon"])
    with pytest.raises(ValueError, match="test_resnet"):
        make_groups(["test_resnett"])
