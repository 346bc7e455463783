"""Shapes of per-sample convolutions, and files of their times on one machine."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from dyvision.ops.geometry import Geometry
from dyvision.ops.problem import KINDS, Problem
from dyvision.ops.rates import machine
from dyvision.ops.work import Rates
from dyvision.saving import write_text

#: multiply-adds and numbers of a problem, at most: what a layer of a network has
LARGEST_MACS, LARGEST_MAP, LARGEST_KERNELS = 3e9, 2**25, 2**26
#: kernels that are mixed in all shapes
MIXED = 4
PASSES = ("forward", "backward")
#: every fourth shape of a file is held out: no constant is fitted to it
HELD_OUT = 4

Times = dict[str, float]


class Row(NamedTuple):
    """Seconds by formulation, of both passes of one problem; the forward pass also in inference."""

    problem: Problem
    forward: Times
    backward: Times


class Data(NamedTuple):
    """What was measured on one machine.

    Attributes:
        machine: Processor, threads, torch, and how the times were found.
        rates: Of that machine.
        rows: In an order in which every fourth is like the others.
    """

    machine: dict[str, str | int]
    rates: Rates | None
    rows: list[Row]


def draw(generator: random.Random, kind: str, device: str = "cpu") -> Problem:
    """A random problem of the sizes that occur in networks."""
    while True:
        log = lambda low, high: round(2 ** generator.uniform(math.log2(low), math.log2(high)))  # noqa: E731
        # deployment is at batch size 1, and the first layer of a network sees three channels
        batch, side = 1 if generator.random() < 0.25 else log(2, 32), log(4, 112)
        channels = 3 if kind == "dense" and generator.random() < 0.05 else 8 * log(1, 128)
        side_of_kernel = 1 if kind == "pointwise" else generator.choice((3, 3, 3, 5))
        out_channels = channels if kind == "depthwise" else 8 * log(1, 128)
        groups = channels if kind == "depthwise" else 1
        if kind == "in groups":
            common = math.gcd(channels, out_channels)
            groups = generator.choice([size for size in range(2, common + 1) if common % size == 0])
        stride = 1 if kind == "pointwise" else generator.choice((1, 1, 1, 2))
        problem = make_problem((batch, channels, out_channels, side_of_kernel, side, stride, groups), device)
        kernels = out_channels * channels // groups * side_of_kernel**2
        macs = batch * kernels * problem.output_pixels
        maps = batch * max(channels, out_channels) * side**2 * side_of_kernel**2
        if problem.kind == kind and macs < LARGEST_MACS and maps < LARGEST_MAP and batch * kernels < LARGEST_KERNELS:
            return problem


def draw_all(shapes: int, seed: int, device: str = "cpu") -> list[Problem]:
    """So many problems of each kind, twice as many dense ones: there formulations are closest."""
    generator = random.Random(seed)
    counts = {kind: shapes * (2 if kind == "dense" else 1) for kind in KINDS}
    return [draw(generator, kind, device) for kind, count in counts.items() for _ in range(count)]


def make_problem(shape: Iterable[int], device: str = "cpu") -> Problem:
    """The problem of ``(batch, in_channels, out_channels, kernel, size, stride, groups)``, all square."""
    batch, channels, out_channels, kernel, side, stride, groups = shape
    return Problem(
        batch=batch,
        in_channels=channels,
        out_channels=out_channels,
        kernel=(kernel, kernel),
        size=(side, side),
        geometry=Geometry((stride, stride), (kernel // 2, kernel // 2), (1, 1), groups),
        mixed=MIXED,
        device=device,
        dtype=torch.float32,
        channels_last=False,
        training=True,
        linear=True,
    )


def _shape_of(problem: Problem) -> list[int]:
    sizes = (problem.batch, problem.in_channels, problem.out_channels, problem.kernel[0], problem.size[0])
    return [*sizes, problem.geometry.stride[0], problem.geometry.groups]


def is_held_out(index: int, fold: int = 0) -> bool:
    """Whether nothing is fitted to this row of a file."""
    return index % HELD_OUT == fold


def combine(measurements: list[Times]) -> Times:
    """One time per formulation of several measurements, in each of which the formulations took turns.

    A machine changes its speed within seconds, so of each measurement only the ratios count: a time is the median of
    its ratios to the measurement's level.
    """
    reference = max(measurements, key=len)

    def level(times: Times) -> float:
        return statistics.median(math.log(times[name] / reference[name]) for name in times)

    levels = [level(times) for times in measurements]
    logs = {
        name: [math.log(t[name]) - shift for t, shift in zip(measurements, levels, strict=True) if name in t]
        for name in reference
    }
    return {name: math.exp(statistics.median(found)) for name, found in logs.items()}


def read(path: Path) -> Data:
    """Read a file that :func:`write` made."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = content["formulations"]
    rows = []
    for shape, *passes in content["rows"]:
        forward, backward = (
            {name: micro * 1e-6 for name, micro in zip(names, times, strict=False) if micro} for times in passes
        )
        rows.append(Row(make_problem(shape), forward, backward))
    rates = content["rates"]
    return Data(content["machine"], None if rates is None else Rates(**rates), rows)


def write(path: Path, data: Data) -> None:
    """Write times in microseconds, to three digits: a line per shape, a column per formulation, 0 for none."""
    names = sorted({name for row in data.rows for name in row.forward})

    def columns(times: Times) -> list[float]:
        found = [float(f"{times.get(name, 0.0) * 1e6:.3g}") for name in names]
        found = [int(value) if value == int(value) else value for value in found]
        while found and not found[-1]:
            found.pop()
        return found

    lines = [json.dumps([_shape_of(row.problem), columns(row.forward), columns(row.backward)]) for row in data.rows]
    rates = None if data.rates is None else {k: float(f"{v:.4g}") for k, v in data.rates._asdict().items()}
    head = json.dumps({"machine": data.machine, "rates": rates, "formulations": names}, indent=1)
    body = ",\n  ".join(line.replace(" ", "") for line in lines)
    write_text(path, f'{head[:-2]},\n "rows": [\n  {body}\n ]\n}}\n')


def this_machine() -> dict[str, str | int]:
    """What is measured on."""
    return {**machine(), "times": "measured"}
