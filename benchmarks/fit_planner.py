"""Measure per-sample convolutions of many shapes, and fit the cost model by which the planner chooses.

    python benchmarks/fit_planner.py [--device cpu] [--shapes 120] [--times FILE] [--write]

The logarithm of the time of each formulation is a quadratic polynomial of the logarithms of the sizes, fitted by ridge
regression. A quarter of the shapes is held out: the table gives, for these, the time of the formulation that the
planner chooses over that of the fastest (median, 95th percentile, and the share of shapes within 1.10), beside what
always taking one formulation would give. ``--write`` replaces ``dyvision/ops/planner_<device>.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dyvision.ops import cost_model
from dyvision.ops.cost_model import monomials
from dyvision.ops.geometry import Geometry
from dyvision.ops.measuring import measure
from dyvision.ops.problem import KINDS, Problem
from dyvision.saving import write_text

#: multiply-adds and numbers of a problem, at most: what a layer of a network has
LARGEST_MACS, LARGEST_MAP, LARGEST_KERNELS = 3e9, 2**25, 2**26


def main() -> None:
    """Measure, fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--shapes", type=int, default=120, help="per kind of convolution; dense: twice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=Path, help="file of the measurements of these shapes: written, or read again")
    parser.add_argument("--write", action="store_true", help="replace the table that the package ships")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    # library and matrix products are closest for dense kernels, where the model needs more to tell them apart
    counts = {kind: options.shapes * (2 if kind == "dense" else 1) for kind in KINDS}
    problems = [draw(generator, kind, options.device) for kind, count in counts.items() for _ in range(count)]
    console = Console()
    if options.times is not None and options.times.is_file():
        times = json.loads(options.times.read_text(encoding="utf-8"))
    else:
        times = [measure(problem, rounds=5) for problem in track(problems, "measuring", console=console)]
        if options.times is not None:
            write_text(options.times, json.dumps(times))
    weights: dict[str, dict[str, dict[str, list[float]]]] = {}
    table = Table(title=f"planned over fastest, held-out shapes, {machine(options.device)}")
    for column in ("pass", "kind", "shapes", "median", "95 %", "within 1.10", "best single formulation"):
        table.add_column(column)
    for direction in ("forward", "backward"):
        weights[direction] = {}
        for kind in KINDS:
            pairs = [(p, t[direction]) for p, t in zip(problems, times, strict=True) if p.kind == kind]
            training, held_out = pairs[len(pairs) // 4 :], pairs[: len(pairs) // 4]
            fitted = {name: fit([(p, t[name]) for p, t in training if name in t]) for name in names(pairs)}
            table.add_row(direction, kind, str(len(held_out)), *judge(held_out, fitted))
            weights[direction][kind] = {name: fit([(p, t[name]) for p, t in pairs if name in t]) for name in fitted}
    console.print(table)
    if options.write:
        path = Path(cost_model.__file__).with_name(f"planner_{options.device}.json")
        content = {"machine": machine(options.device), "shapes": len(problems), "weights": weights}
        write_text(path, json.dumps(content, indent=1) + "\n")
        console.print(path)


def draw(generator: random.Random, kind: str, device: str) -> Problem:
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
        pad = side_of_kernel // 2
        geometry = Geometry((stride, stride), (pad, pad), (1, 1), groups)
        problem = Problem(
            batch=batch,
            in_channels=channels,
            out_channels=out_channels,
            kernel=(side_of_kernel, side_of_kernel),
            size=(side, side),
            geometry=geometry,
            mixed=4,
            device=device,
            dtype=torch.float32,
            channels_last=False,
            training=True,
            linear=True,
        )
        kernels = out_channels * channels // groups * side_of_kernel**2
        macs = batch * kernels * problem.output_pixels
        maps = batch * max(channels, out_channels) * side**2 * side_of_kernel**2
        if problem.kind == kind and macs < LARGEST_MACS and maps < LARGEST_MAP and batch * kernels < LARGEST_KERNELS:
            return problem


def names(pairs: list[tuple[Problem, dict[str, float]]]) -> list[str]:
    """The formulations that were measured."""
    return sorted({name for _, times in pairs for name in times})


def fit(samples: list[tuple[Problem, float]], ridge: float = 1e-2) -> list[float]:
    """Weights of the monomials for the logarithm of the time."""
    x = torch.tensor([monomials(problem) for problem, _ in samples], dtype=torch.float64)
    y = torch.tensor([math.log(seconds) for _, seconds in samples], dtype=torch.float64)
    scale = x.abs().amax(0).clamp(min=1)
    x = x / scale
    solution = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return [round(value, 6) for value in (solution / scale).tolist()]


def judge(pairs: list[tuple[Problem, dict[str, float]]], fitted: dict[str, list[float]]) -> list[str]:
    """Columns of the table."""
    ratios, single = [], {name: [] for name in fitted}
    for problem, times in pairs:
        terms = monomials(problem)
        cost = {name: sum(w * t for w, t in zip(fitted[name], terms, strict=True)) for name in times}
        best = min(times.values())
        ratios.append(times[min(cost, key=cost.__getitem__)] / best)
        for name, seconds in times.items():
            single[name].append(seconds / best)
    ratios.sort()
    share = sum(ratio <= 1.1 for ratio in ratios) / len(ratios)
    measured = [name for name, found in single.items() if found]
    name = min(measured, key=lambda name: statistics.fmean(single[name]))
    late = ratios[min(len(ratios) - 1, int(0.95 * len(ratios)))]
    alone = f"{name}: {statistics.median(single[name]):.2f}, mean {statistics.fmean(single[name]):.2f}"
    return [f"{statistics.median(ratios):.3f}", f"{late:.2f}", f"{share:.0%}", alone]


def machine(device: str) -> str:
    """What was measured on."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return (
        f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
