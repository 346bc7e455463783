"""``dyvision doctor``: versions, devices, which engines are used and why others are not, which extras are missing.

``--calibrate`` measures the rates of the processor again, by which formulations are chosen.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dyvision.saving import check_target, write_text
from dyvision.text import plain

if TYPE_CHECKING:
    from dyvision.analysis.doctor import Diagnosis
    from dyvision.tables import FittingTable


#: of rates that are no multiply-adds: factor and unit
_UNITS = {
    "call": (1e6, "microseconds per operation"),
    **dict.fromkeys(("cache", "memory", "fresh"), (1e-9, "GB per second")),
}


def add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="show versions, devices, engines in use, and extras that are missing",
        description="What dyvision finds on this machine. Copy it into a report of a fault.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there; - prints it instead")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="measure again, while nothing else runs, how fast this processor is: ways to compute are chosen by it",
    )
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    if options.json is not None and options.json != Path("-"):
        check_target(options.json, "--json")
    from dyvision.analysis.doctor import diagnose
    from dyvision.tables import make_console

    found = diagnose(measure=options.calibrate)
    content = json.dumps(found.to_dict(), indent=1) + "\n"
    if options.json == Path("-"):
        sys.stdout.write(content)
        return
    console = make_console()
    for table in _tables(found, options.calibrate):
        console.print(table)
    if options.json is not None:
        write_text(options.json, content)


def _tables(found: Diagnosis, with_rates: bool) -> list[FittingTable]:
    from dyvision.tables import NAME, FittingTable

    def start(title: str, first: str, *others: str) -> FittingTable:
        table = FittingTable(title, elsewhere="--json FILE has them")
        table.add_column(first, NAME)
        for importance, name in enumerate(others, 1):
            table.add_column(name, importance, folds=24)
        return table

    versions = start("versions", "package", "version")
    for package, number in found.versions.items():
        versions.add_row(plain(package), plain(number))
    machine = start("machine", "what", "found")
    for name, text in found.machine.items():
        machine.add_row(plain(name), plain(text))
    engines = start("engines", "engine", "used", "how, or why not")
    for engine in found.engines:
        engines.add_row(plain(engine.name), plain(*_mark(engine.active, "yes", "no")), plain(engine.note))
    extras = start("extras", "extra", "installed", "what adds it")
    for extra in found.extras:
        mark = plain(*_mark(not extra.missing, "yes", "no"))
        extras.add_row(plain(extra.name), mark, plain(extra.command if extra.missing else ""))
    tables = [versions, machine, engines, extras]
    if with_rates:
        model = found.cost_model
        took = "" if model.took is None else f", {model.took:.1f} s"
        rates = start(f"rates of this processor: {model.source}{took} ({model.note})", "rate", "value")
        for name, rate in model.rates.items():
            scale, unit = _UNITS.get(name, (1e-9, "billion multiply-adds per second"))
            value = rate * scale if name == "call" else scale / rate
            rates.add_row(plain(name), plain(f"{value:.3g} {unit}"))
        tables.append(rates)
    return tables


def _mark(good: bool, yes: str, no: str) -> tuple[str, str]:
    return (yes, "green") if good else (no, "yellow")
