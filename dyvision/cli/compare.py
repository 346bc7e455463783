"""``dyvision compare``: runs side by side, and in which options they differ."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyvision.saving import check_target, write_text
from dyvision.text import csv_cell, one_line, plain, printable

if TYPE_CHECKING:
    from dyvision.cli._run_summary import RunSummary
    from dyvision.tables import FittingTable


def add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="show runs side by side",
        description="Metric, length, cost and wall time of runs, and the options in which they differ from the first.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder, checkpoint, or file of validate --json"
    )
    parser.add_argument(
        "--input-size", type=int, default=224, metavar="N", help="side of the image that multiply-adds are counted for"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the first table there, differing options too")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    for name in ("json", "csv"):
        if getattr(options, name) is not None:
            check_target(getattr(options, name), f"--{name}", *options.runs)
    if options.input_size < 1:
        raise ValueError(f"--input-size must be at least 1, got {options.input_size}")
    from dyvision.cli._run_summary import differing_options, summarize
    from dyvision.tables import make_console

    found: list[RunSummary] = []
    failed: list[str] = []
    for path in options.runs:
        try:
            found.append(summarize(path, (options.input_size, options.input_size)))
        except (OSError, ValueError) as error:  # the others are still compared
            failed.append(one_line(error))
    if not found:
        raise ValueError("; ".join(failed))
    differing = differing_options(found)
    console = make_console()
    console.print(_make_table(found))
    if differing:
        console.print(_make_differences(found, differing))
    if options.json is not None:
        content = {"runs": [run.to_dict() for run in found], "differing": differing, "failed": failed}
        write_text(options.json, json.dumps(content, indent=1, default=str) + "\n")
    if options.csv is not None:
        write_text(options.csv, _as_csv(found, differing))
    for line in failed:
        print(f"dyvision: error: {printable(line)}", file=sys.stderr)
    return 1 if failed else 0


def _make_table(runs: Sequence[RunSummary]) -> FittingTable:
    from dyvision.tables import NAME, FittingTable

    height, width = runs[0].input_size
    table = FittingTable(
        caption=f"MACs: of the backbone for an image of {height} x {width}. Time: of the training; of a "
        "JSON file, of its evaluation.",
        elsewhere="--csv FILE has them",
    )
    table.add_column("", NAME, justify="right")
    table.add_column("run", NAME, folds=20)
    for name, importance in (("task", 4), ("backbone", 3), ("layer", 1), ("metric", 2)):
        table.add_column(name, importance)
    for name, importance in (("best", 1), ("epochs", 4), ("parameters", 2), ("MACs (M)", 2), ("time", 3)):
        table.add_column(name, importance, justify="right")
    best = {
        metric: max((run.value for run in runs if run.metric == metric and run.value is not None), default=None)
        for metric in {run.metric for run in runs}
    }
    for number, run in enumerate(runs, 1):
        value = "-" if run.value is None else f"{run.value:.4f}"
        table.add_row(
            str(number),
            plain(run.source),
            run.task,
            plain(run.backbone),
            plain(run.layer),
            plain(run.metric),
            plain(value, "bold" if len(runs) > 1 and run.value is not None and run.value == best[run.metric] else ""),
            "-" if run.epochs is None else str(run.epochs),
            f"{run.parameters:,}",
            f"{run.macs / 1e6:.1f}",
            _duration(run.seconds),
        )
    return table


def _make_differences(runs: Sequence[RunSummary], differing: Mapping[str, Sequence[Any]]) -> FittingTable:
    from dyvision.tables import NAME, FittingTable

    table = FittingTable("options that differ", elsewhere="--csv FILE has them")
    table.add_column("option", NAME)
    for number in range(1, len(runs) + 1):
        table.add_column(str(number), number, folds=8)
    for name, values in differing.items():
        first, *others = values
        cells = [plain(_short(value), "bold yellow" if value != first else "") for value in others]
        table.add_row(plain(name), plain(_short(first)), *cells)
    return table


def _short(value: Any) -> str:
    from dyvision.arguments import shown

    return value if isinstance(value, str) and len(value) < 40 else "-" if value is None else shown(value, 40)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _as_csv(runs: Sequence[RunSummary], differing: Mapping[str, Sequence[Any]]) -> str:
    file = io.StringIO()
    columns = [name for name in runs[0].to_dict() if name not in ("options", "input_size")]
    writer = csv.writer(file)
    writer.writerow([*columns, *map(csv_cell, differing)])
    for index, run in enumerate(runs):
        own = [csv_cell(run.to_dict()[name]) for name in columns]
        writer.writerow([*own, *(csv_cell(_cell(values[index])) for values in differing.values())])
    return file.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else value
