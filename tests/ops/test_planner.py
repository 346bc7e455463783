"""If these fail, a formulation is chosen that cannot run, compile or export, or a slow one although a fast is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import dyvision
import dyvision.ops
from dyvision.layers import get_layer
from dyvision.ops import dynamic_conv2d, formulation, measuring, mixture_conv2d, planner
from dyvision.ops.cost_model import estimate
from dyvision.ops.formulations import TABLE, applicable, separable
from dyvision.ops.geometry import Geometry
from dyvision.ops.problem import Plan, Problem


def problem(**changes) -> Problem:
    values = {
        "batch": 8,
        "in_channels": 64,
        "out_channels": 64,
        "kernel": (3, 3),
        "size": (14, 14),
        "geometry": Geometry((1, 1), (1, 1), (1, 1), 1),
        "mixed": 4,
        "device": "cpu",
        "dtype": torch.float32,
        "channels_last": False,
        "training": False,
        "linear": True,
    }
    return Problem(**{**values, **changes})


DEPTHWISE = {"geometry": Geometry((1, 1), (1, 1), (1, 1), 64)}
POINTWISE = {"kernel": (1, 1), "geometry": Geometry((1, 1), (0, 0), (1, 1), 1)}


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [{}, DEPTHWISE, POINTWISE, {"mixed": 0}, {"linear": False}])
def test_the_plan_can_run(shape, training, device):
    one = problem(**shape, training=training, device=device)
    plan = estimate(one)
    assert plan.forward in applicable(one) and plan.backward in applicable(one)
    if training:
        assert {plan.forward, plan.backward} <= set(separable(one))


def test_what_is_fast_on_any_processor_is_planned():
    # 1x1 kernels: a batched product, on every shape that was measured, where kernels of our own cannot read the tensors
    assert estimate(problem(**POINTWISE, plain=False)).forward == "matmul"
    # the kernels of 16 samples do not fit into any cache
    deep = problem(batch=16, in_channels=512, out_channels=512, size=(4, 4), training=True, plain=False)
    assert estimate(deep).backward == "unfold"
    # large maps, small kernels
    assert estimate(problem(size=(56, 56), training=True)).backward == "grouped"


def test_benchmark_measures_each_shape_once_and_keeps_the_fastest(monkeypatch):
    calls = []

    def measure(problem: Problem) -> dict[str, dict[str, float]]:
        calls.append(problem)
        return {"forward": {"grouped": 3.0, "unfold": 2.0, "loop": 1.0, "mix_outputs": 4.0}}

    monkeypatch.setattr(measuring, "measure", measure)
    monkeypatch.setattr(dyvision.ops, "benchmark", True)
    measuring._measured.cache_clear()
    try:
        x, kernels, coefficients = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 3, 3, 3), torch.rand(2, 2)
        for _ in range(2):
            mixture_conv2d(x, kernels, coefficients)
        assert len(calls) == 1 and measuring._measured(calls[0]) == Plan("loop", "loop")
        mixture_conv2d(x[:1], kernels, coefficients[:1])
        assert len(calls) == 2
    finally:
        measuring._measured.cache_clear()


@pytest.mark.parametrize("mixed", [0, 3])
@pytest.mark.parametrize("shape", [{}, DEPTHWISE, POINTWISE])
def test_measurements_cover_what_can_run(shape, mixed):
    one = problem(**shape, batch=2, size=(5, 5), mixed=mixed, training=True)
    times = measuring.measure(one, rounds=1)
    assert set(times["forward"]) == set(applicable(one)) and set(times["backward"]) == set(separable(one))
    assert set(times["whole"]) == set(applicable(one)) - set(separable(one))
    assert all(seconds > 0 for part in times.values() for seconds in part.values())


def test_several_processes_do_not_measure(monkeypatch):
    monkeypatch.setattr(dyvision.ops, "benchmark", True)
    assert measuring.wants_measurement()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert not measuring.wants_measurement()


def test_what_is_forced_wins_inside_the_block_only(monkeypatch):
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 3, 3, 3)
    used = []
    for name in ("grouped", "unfold", "loop"):
        function = TABLE[name].forward
        spy = lambda *a, name=name, function=function: used.append(name) or function(*a)  # noqa: E731
        monkeypatch.setitem(TABLE, name, replace(TABLE[name], forward=spy))
    with formulation("loop"):
        dynamic_conv2d(x, weight)
        with formulation("unfold"):
            dynamic_conv2d(x, weight)
        dynamic_conv2d(x, weight)
    assert used == ["loop", "unfold", "loop"]


class PerSample(nn.Module):
    def __init__(self, kernel: int, groups: int) -> None:
        super().__init__()
        self.layer = get_layer("dyconv")(8, 16, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 8), (3, 2)])
def test_exports_with_a_dynamic_batch(kernel, groups):
    model = PerSample(kernel, groups).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(3, 8, 6, 6),), dynamic_shapes=({0: batch},))
    x = torch.randn(7, 8, 6, 6)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("planned", "convolves"), [("grouped", True), ("unfold", False)])
def test_compilers_get_the_estimate_where_sizes_are_fixed(planned, convolves, monkeypatch):
    monkeypatch.setattr(planner, "estimate", lambda _, measure: Plan(planned, "" if measure else planned))
    x, weight = torch.randn(3, 4, 6, 6), torch.randn(3, 5, 4, 3, 3)
    expected = nn.functional.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), groups=3).view(3, 5, 4, 4)
    graphs = []
    for dynamic in (False, True):
        torch.compiler.reset()
        compiled = torch.compile(
            dynamic_conv2d, fullgraph=True, dynamic=dynamic, backend=lambda graph, _: graphs.append(graph) or graph
        )
        torch.testing.assert_close(compiled(x, weight), expected, rtol=1e-4, atol=1e-5)
        found = any("conv2d" in str(node.target) for node in graphs[-1].graph.nodes)
        fixed = planner.has_static_value is not None and not dynamic  # torch before 2.7 cannot tell
        assert found == (convolves and fixed)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 8)])
def test_compiles_once_for_all_batches_with_gradients(kernel, groups):
    model = PerSample(kernel, groups)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for size in (2, 3, 5):
        x = torch.randn(size, 8, 6, 6)
        gradients = []
        for function in (model, compiled):
            model.zero_grad()
            function(x).square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
# generating code takes minutes; one network shows that it works
@pytest.mark.parametrize(
    ("layer", "backend"),
    [("condconv", "inductor"), ("dcd", "aot_eager"), ("dyconv", "aot_eager"), ("odconv", "aot_eager")],
)
def test_a_whole_network_compiles_and_exports(layer, backend):
    model = dyvision.create_model("mobilenetv2_035", layer=layer, num_classes=5).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(3, 3, 64, 64),), dynamic_shapes=({0: batch},))
    compiled = torch.compile(model, fullgraph=True, backend=backend, dynamic=False)
    for size in (1, 4):
        x = torch.randn(size, 3, 64, 64)
        with torch.no_grad():
            expected = model(x)
            for found in (program.module()(x), compiled(x)):
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
