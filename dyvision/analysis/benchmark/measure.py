"""The loops of ``dyvision benchmark``: what is measured beside what, shape by shape and network by network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from dyvision.analysis.benchmark.cases import (
    OPERATOR_NETWORKS,
    ConvShape,
    Setting,
    inference_run,
    make_groups,
    operator_runs,
    trace_shapes,
    training_run,
)
from dyvision.analysis.benchmark.memory import measure_peak_memory
from dyvision.analysis.benchmark.rows import Row
from dyvision.analysis.benchmark.timing import Comparison, compare, describe_machine, make_timer
from dyvision.backbones import create_model, fuse
from dyvision.backbones.registry import find_builder
from dyvision.ops import FORMULATIONS, native

#: the static network whose convolutions native kernels compute where they are faster
NATIVE_STATIC = "native static"

#: what is measured next or has been, how many there are, and rows once it has been
Progressed = Iterator[tuple[str, int, list[Row]]]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        what: ``operators``, ``models`` or ``training``.
        setting: Where and how it runs.
        batches: Images per batch.
        input_size: Height and width of the images.
        networks: Their names; None for the usual ones.
        layers: Dynamic layers of the networks; None for the usual ones.
        arguments: Of these layers, beside the published settings.
        formulations: Of operators: force every formulation, and name the best.
        fused: Of models: fold what can be folded first, in the static networks too.
        rounds: Measurements of each ratio.
        budget: Seconds after which no further round of a shape or network and batch starts once there are three.
    """

    what: str
    setting: Setting
    batches: Sequence[int]
    input_size: int
    networks: Sequence[str] | None = None
    layers: Sequence[str] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    formulations: bool = False
    fused: bool = False
    rounds: int = 15
    budget: float | None = 60

    def describe(self) -> dict[str, str]:
        """The machine, the numbers and the mode, as they should be printed beside times."""
        dtype = str(self.setting.dtype).removeprefix("torch.")
        by_autocast = " by autocast" if self.what == "training" and self.setting.dtype != torch.float32 else ""
        return {
            **describe_machine(self.setting.device),
            "dtype": dtype + by_autocast,
            "memory_format": "channels_last" if self.setting.channels_last else "contiguous",
            "mode": ("fused, " if self.fused else "") + ("compiled" if self.setting.compiled else "eager"),
        }

    def title(self, rows: Sequence[Row]) -> str:
        """What was measured, in one line."""
        rounds = sorted(row.rounds for row in rows)
        many = f"{rounds[0]}" if rounds[0] == rounds[-1] else f"{rounds[0]} to {rounds[-1]}"
        return f"{self.what}, {self.input_size} pixels, {many} rounds"


def measure(plan: Plan) -> Progressed:
    """Measure what a plan asks for.

    Yields:
        ``(label, total, rows)``: what comes next, how many such there are, and no rows; and again with its rows.

    Raises:
        ValueError: For an unknown network or layer; the message gives the closest names.
    """
    return _operators(plan) if plan.what == "operators" else _networks(plan)


def _operators(plan: Plan) -> Progressed:
    networks = list(dict.fromkeys(plan.networks or OPERATOR_NETWORKS))
    for network in networks:
        find_builder(network)
    counts: dict[ConvShape, list[str]] = {}
    for network in networks:
        for shape, count in trace_shapes(create_model(network), plan.input_size).items():
            counts.setdefault(shape, []).append(f"{count}x {network}")
    total = len(counts) * len(plan.batches)
    timer = make_timer(plan.setting.device)
    for shape, uses in counts.items():
        for batch in plan.batches:
            yield f"{shape}, batch {batch}", total, []
            with torch.inference_mode():
                runs = operator_runs(shape, batch, plan.setting, plan.formulations)
                found = compare(runs, plan.rounds, budget=plan.budget, timer=timer)
            pairs = [(name, "static") for name in runs if name != "static"]
            pairs += [("mixture", "timm")] if "timm" in runs else []
            rows = [_row(plan, found, str(shape), batch, pair, note=", ".join(uses)) for pair in pairs]
            forced = [name for name in runs if name in FORMULATIONS]
            if forced:
                best = found.fastest(forced)
                rows.append(_row(plan, found, str(shape), batch, ("mixture", best), best=best))
            yield f"{shape}, batch {batch}", total, rows
        if plan.setting.compiled:
            torch.compiler.reset()  # it keeps a few shapes per function only


def _networks(plan: Plan) -> Progressed:
    setting, training = plan.setting, plan.what == "training"
    groups = make_groups(plan.networks, plan.layers, plan.arguments)
    total = len(groups) * len(plan.batches)
    timer = make_timer(setting.device)
    for group in groups:
        yield f"building {group.name}", total, []
        models = {label: build().to(setting.device).train(training) for label, build in group.builders.items()}
        for model in models.values():
            model.to(dtype=None if training else setting.dtype).to(memory_format=setting.memory_format)
        pairs = group.pairs
        if plan.fused:
            # ratios are to what PyTorch computes; with native kernels a static network is one more version
            own = "static" in models and _uses_native(setting)
            originals = {**models, NATIVE_STATIC: models["static"]} if own else models
            models = {label: fuse(model, native_static=label != "static") for label, model in originals.items()}
            pairs += ((NATIVE_STATIC, "static"),) if own else ()
        functions = {label: setting.compile(model) for label, model in models.items()}
        for batch in plan.batches:
            yield f"{group.name}, batch {batch}", total, []
            images = torch.randn(batch, 3, plan.input_size, plan.input_size, device=setting.device)
            images = images.to(None if training else setting.dtype, memory_format=setting.memory_format)
            runs = {
                label: training_run(function, images, setting.dtype) if training else inference_run(function, images)
                for label, function in functions.items()
            }
            found = compare(runs, plan.rounds, budget=plan.budget, timer=timer)
            memory = {}
            if training and not (setting.compiled and setting.device.type == "cpu"):
                for label, model in models.items():
                    model.zero_grad(set_to_none=True)
                    memory[label] = measure_peak_memory(runs[label], model, setting.device)
            rows = [_row(plan, found, group.name, batch, pair, memory) for pair in pairs]
            yield f"{group.name}, batch {batch}", total, rows
        del models, functions, runs
        if setting.compiled:
            torch.compiler.reset()


def _uses_native(setting: Setting) -> bool:
    plain = setting.device.type == "cpu" and setting.dtype == torch.float32
    return plain and not setting.channels_last and not setting.compiled and native.available()


def _row(
    plan: Plan,
    found: Comparison,
    group: str,
    batch: int,
    pair: tuple[str, str],
    memory: Mapping[str, int] | None = None,
    note: str = "",
    best: str = "",
) -> Row:
    name, reference = pair
    ratio = found.ratio(name, reference)
    return Row(
        what=plan.what,
        group=group,
        name=name,
        reference="best formulation" if best else reference,
        batch=batch,
        input_size=plan.input_size,
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        reference_ms=found.milliseconds(reference),
        rounds=found.rounds,
        memory_mib=memory[name] / 2**20 if memory else None,
        memory_ratio=memory[name] / memory[reference] if memory else None,
        note=note,
        best=best,
    )


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads; None for as many as it does."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
