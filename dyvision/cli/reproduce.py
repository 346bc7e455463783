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

    from dyvision.analysis.reproduce import Comparison, make_report, read_published, reproduce
    from dyvision.saving import check_target
    from dyvision.tables import make_console

    if options.json is not None:
        check_target(options.json, "--json")

    rows = read_published(options.table)
    console = make_console()
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
    for part in make_report(found):
        console.print(part, highlight=False)
    if options.json is not None:
        entries = [
            asdict(one.published) | {"our_params": one.params, "our_macs": one.macs, "our_macs_executed": one.executed}
            for one in found
        ]
        write_text(options.json, json.dumps(entries, indent=1) + "\n")
