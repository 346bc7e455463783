"""Measure per-sample convolutions of many shapes, fit the cost model by which the planner chooses, and judge it.

    python -m benchmarks.fit_planner measure FILE [--shapes 100] [--sweeps 3] [--seed 0]
    python -m benchmarks.fit_planner fit FILE... [--fold 0] [--write]
    python -m benchmarks.fit_planner show FILE...

``measure`` draws shapes and times every formulation in turns, in several sweeps over all shapes; it can be stopped and
goes on. ``fit`` fits the coefficients of ``dyvision/ops/planner.json`` to three quarters of the shapes of all files
together; ``--write`` replaces that file, whose typical processors are those of the files, and writes fitted rates into
files without. ``show`` prints, for the shapes held out, the time of what is chosen with the file's rates over that of
the fastest formulation (median, 95th percentile, the share of shapes within 1.10), beside what always taking one would
give. The files of the two machines of docs/performance.md are ``tests/ops/data/planner_*.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks._planner_fit import fit
from benchmarks.planner_data import (
    HELD_OUT,
    PASSES,
    Data,
    Row,
    Times,
    combine,
    draw_all,
    is_held_out,
    read,
    this_machine,
    write,
)
from dyvision.ops import cost_model, rates
from dyvision.ops.cost_model import Coefficients, costs_of, fastest
from dyvision.ops.formulations import TABLE
from dyvision.ops.measuring import measure
from dyvision.ops.problem import KINDS
from dyvision.ops.work import Rates
from dyvision.saving import write_text

#: what is chosen from
CHOICES = ("inference", "without native kernels", "training")


def main() -> None:
    """Do what the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("file", type=Path)
    measuring.add_argument("--shapes", type=int, default=100, help="per kind of convolution; dense: twice")
    measuring.add_argument("--sweeps", type=int, default=3)
    measuring.add_argument("--seed", type=int, default=0)
    measuring.add_argument("--threads", type=int)
    measuring.set_defaults(run=_measure)
    for name, run in (("fit", _fit), ("show", _show)):
        command = commands.add_parser(name)
        command.add_argument("files", type=Path, nargs="+")
        command.add_argument("--fold", type=int, default=0, choices=range(HELD_OUT), help="which quarter is held out")
        command.add_argument("--write", action="store_true", help="of fit: replace what the package ships")
        command.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


def _measure(options: argparse.Namespace) -> None:
    console = Console()
    if options.threads:
        torch.set_num_threads(options.threads)
    start = time.perf_counter()
    found = rates.calibrate()
    console.print(f"rates: {found.source}, {time.perf_counter() - start:.2f} s: {found.rates}")
    problems = draw_all(options.shapes, options.seed)
    raw = options.file.with_suffix(".sweeps.json")
    sweeps: dict[str, list[dict[str, Times]]] = json.loads(raw.read_text()) if raw.is_file() else {}
    for sweep in range(options.sweeps):
        order = list(range(len(problems)))
        random.Random(sweep).shuffle(order)
        for count, index in enumerate(track(order, f"sweep {sweep + 1}", console=console)):
            if len(sweeps.setdefault(str(index), [])) > sweep:
                continue
            one = problems[index]
            inference = measure(one._replace(training=False), rounds=5)["forward"]
            sweeps[str(index)].append({**measure(one, rounds=5), "forward": inference})
            if count % 50 == 49:
                write_text(raw, json.dumps(sweeps))
        write_text(raw, json.dumps(sweeps))
    rows = [
        Row(problem, *(combine([times[name] for times in sweeps[str(index)]]) for name in PASSES))
        for index, problem in enumerate(problems)
    ]
    write(options.file, Data(this_machine(), found.rates, rows))
    console.print(options.file)


def _fit(options: argparse.Namespace) -> None:
    files = {str(path): read(path) for path in options.files}
    torch.set_num_threads(1)  # of many small operations
    coefficients, found = fit(files, options.fold)
    files = {name: data._replace(rates=found[name]) for name, data in files.items()}
    for name, data in files.items():
        Console().print(_judge(name, data, coefficients, options.fold))
    if options.write:
        processors = [
            {
                "maker": str(d.machine["processor"]).split()[0],
                "processor": d.machine["processor"],
                "threads": d.machine["threads"],
                "rates": found[name]._asdict(),
            }
            for name, d in files.items()
        ]
        path = Path(cost_model.__file__).with_name("planner.json")
        write_text(path, json.dumps({"processors": processors, "coefficients": coefficients}, indent=1) + "\n")
        for name, data in files.items():
            write(Path(name), data)


def _show(options: argparse.Namespace) -> None:
    for path in options.files:
        Console().print(_judge(str(path), read(path), rates.shipped()["coefficients"], options.fold))


def _judge(name: str, data: Data, coefficients: Coefficients, fold: int) -> Table:
    """The table of the shapes that are held out."""
    assert data.rates is not None
    table = Table(title=f"planned over fastest, held-out shapes, {data.machine['processor']} ({name})")
    for column in ("chosen for", "kind", "shapes", "median", "95 %", "within 1.10", "fitted shapes", "best single"):
        table.add_column(column)
    together: list[float] = []
    for choice, direction in (*((choice, "forward") for choice in CHOICES), ("training", "backward")):
        if choice == "inference" and not any("native" in row.forward for row in data.rows):
            continue
        for kind in KINDS:
            pairs = list(ratios(data, kind, choice, direction, coefficients, data.rates))
            held, fitted = ([p for i, p in pairs if is_held_out(i, fold) == out] for out in (True, False))
            chosen = sorted(ratio for ratio, _ in held)
            together += chosen
            names = {n for _, single in held for n in single}
            mean = {n: statistics.fmean(single.get(n, 10.0) for _, single in held) for n in names}
            best = min(mean, key=mean.__getitem__)
            table.add_row(
                f"{choice}, {direction}",
                kind,
                str(len(chosen)),
                f"{statistics.median(chosen):.3f}",
                f"{chosen[min(len(chosen) - 1, int(0.95 * len(chosen)))]:.2f}",
                f"{_share(chosen):.0%}",
                f"{_share([ratio for ratio, _ in fitted]):.0%}",
                f"{best}: mean {mean[best]:.2f}",
            )
    table.caption = f"together {_share(together):.1%} of {len(together)} choices"
    return table


def _share(found: list[float]) -> float:
    return sum(ratio <= 1.1 for ratio in found) / len(found)


def ratios(
    data: Data, kind: str, choice: str, direction: str, coefficients: Coefficients, machine_rates: Rates
) -> Iterator[tuple[int, tuple[float, Times]]]:
    """Of each row of a kind its number, the time of what is chosen over the fastest, and that of each formulation."""
    for index, row in enumerate(data.rows):
        if row.problem.kind != kind:
            continue
        times = {name: value for name, value in getattr(row, direction).items() if _is_offered(name, choice)}
        leading = [name for name in times if (leads := TABLE[name].leads) is not None and leads(row.problem)]
        costs = costs_of(row.problem, direction, tuple(times), coefficients)
        chosen = leading[0] if leading else fastest(costs, machine_rates)
        best = min(times.values())
        yield index, (times[chosen] / best, {name: value / best for name, value in times.items()})


def _is_offered(name: str, choice: str) -> bool:
    if choice == "inference":
        return True
    return name != "native" and (choice != "training" or TABLE[name].separable)


if __name__ == "__main__":
    main()
