"""``dyvision reproduce``: published parameters and multiply-adds beside ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from dyvision.saving import write_text


def add_reproduce(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "reproduce",
        help="compare parameters and multiply-adds with the publications",
        description="Build every published network and print published against ours; rows that differ carry a reason.",
    )
    parser.add_argument("--table", help="one publication's table: condconv, dcd, dyconv, dynet, ... (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there as well")
    parser.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from rich.progress import track

    from dyvision.analysis.reproduce import MACS_TOLERANCE, PARAMS_TOLERANCE, Comparison, read_published, reproduce
    from dyvision.saving import check_target
    from dyvision.tables import NAME, FittingTable, make_console

    if options.json is not None:
        check_target(options.json, "--json")

    rows = read_published(options.table)
    console = make_console(180)
    found: list[Comparison] = list(
        track(
            reproduce(rows),
            total=len(rows),
            description="counting",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    )
    table = FittingTable("published against ours, 224 x 224 pixels", elsewhere="--json FILE has them")
    table.add_column("table", importance=6)
    table.add_column("network", NAME)
    table.add_column("method, setting", NAME, folds=True)
    table.add_column("top-1", importance=4, justify="right")
    for name, importance in (
        *(
            ("params, M", 3),
            ("ours", 3),
            ("params diff.", 1),
            ("MACs, M", 3),
            ("ours", 3),
            ("executed", 5),
            ("MACs diff.", 1),
        ),
    ):
        table.add_column(name, importance, justify="right")
    table.add_column("note", importance=2, justify="right")
    table.add_column("source", importance=7, folds=True)
    reasons: list[str] = []
    for one in found:
        row = one.published
        number = ""
        if not one.agrees:
            if row.reason not in reasons:
                reasons.append(row.reason)
            number = f"\\[{reasons.index(row.reason) + 1}]"  # escaped: brackets are markup
        table.add_row(
            row.table,
            row.network,
            ", ".join(part for part in (row.method, row.setting) if part),
            row.top1,
            row.params_m,
            f"{one.params / 1e6:.2f}",
            _percent(one.params_difference),
            row.macs_m,
            f"{one.macs / 1e6:.1f}",
            f"{one.executed / 1e6:.1f}",
            _percent(one.macs_difference),
            number,
            row.source,
            style=None if one.agrees else "yellow",
        )
    console.print(table)
    for index, reason in enumerate(reasons, 1):
        console.print(f"[{index}] {reason or 'no reason known'}", markup=False, soft_wrap=True, highlight=False)
    agreeing = sum(one.agrees for one in found)
    agreeing_text = f"{PARAMS_TOLERANCE:.0%} of the parameters and {MACS_TOLERANCE:.0%} of the multiply-adds"
    console.print(
        f"{len(found)} rows: {agreeing} within {agreeing_text} (or equal to all published digits), "
        f"{len(found) - agreeing} explained by a note.",
        highlight=False,
    )
    console.print("MACs: each layer in its cheapest exact formulation, branch and mixing included; executed: what runs")
    if options.json is not None:
        entries = [
            asdict(one.published) | {"our_params": one.params, "our_macs": one.macs, "our_macs_executed": one.executed}
            for one in found
        ]
        write_text(options.json, json.dumps(entries, indent=1) + "\n")


def _percent(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.1f} %"
