"""Published parameters and multiply-adds against those of our networks.

The rows are in ``published.csv``: what a publication states, where, whether the source itself was read, how to build
the network here, and, for rows that differ, why.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from dyvision.analysis.profile import profile
from dyvision.backbones import create_model
from dyvision.tables import NAME, FittingTable
from dyvision.text import plain

if TYPE_CHECKING:
    from rich.text import Text

#: largest relative difference that needs no reason
PARAMS_TOLERANCE, MACS_TOLERANCE = 0.01, 0.02


@dataclass(frozen=True)
class Published:
    """One published row.

    Attributes:
        table: Which publication's table it belongs to (``"dcd"``).
        method: The layer, or ``"static"``.
        network: The network as the publication calls it.
        setting: What else identifies it.
        params_m: Parameters in millions, as printed; empty if not stated.
        macs_m: Multiply-adds in millions, as printed; empty if not stated.
        top1: ImageNet top-1 accuracy in percent, as printed.
        source: The publication.
        status: Whether the source was read for this table, or is quoted.
        build: Arguments of :func:`dyvision.create_model`.
        reason: Why our figures differ, where they do.
    """

    table: str
    method: str
    network: str
    status: str
    setting: str
    params_m: str
    macs_m: str
    top1: str
    source: str
    build: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """A published row and our network.

    Attributes:
        published: The row.
        params: Our parameters.
        macs: Our multiply-adds for one image of 224 x 224 pixels, each layer in its cheapest exact formulation.
        executed: Our multiply-adds as executed.
    """

    published: Published
    params: int
    macs: int
    executed: int

    @property
    def params_difference(self) -> float | None:
        """Ours over the published parameters, minus one; None if there are none."""
        return _difference(self.params, self.published.params_m)

    @property
    def macs_difference(self) -> float | None:
        """Ours over the published multiply-adds, minus one; None if there are none."""
        return _difference(self.macs, self.published.macs_m)

    @property
    def agrees(self) -> bool:
        """Whether both are within the tolerance, or equal to all digits that are published."""
        return _within(self.params, self.published.params_m, PARAMS_TOLERANCE) and _within(
            self.macs, self.published.macs_m, MACS_TOLERANCE
        )


def read_published(table: str | None = None) -> list[Published]:
    """The published rows, of one table or of all.

    Raises:
        ValueError: If there is no such table.
    """
    text = resources.files("dyvision.analysis").joinpath("published.csv").read_text(encoding="utf-8")
    rows = [Published(**row) for row in csv.DictReader(text.splitlines())]
    tables = sorted({row.table for row in rows})
    if table is not None and table not in tables:
        raise ValueError(f"no published table {table!r}; choose from {', '.join(tables)}")
    return [row for row in rows if table in (None, row.table)]


def reproduce(rows: Sequence[Published]) -> Iterator[Comparison]:
    """Build the network of each row and count it.

    Yields:
        One comparison per row, in order.
    """
    for row in rows:
        yield Comparison(row, *_measure(row.build))


def make_report(found: Sequence[Comparison]) -> list[FittingTable | Text]:
    """What the comparisons show: a table, the reasons that its notes name, and how many rows agree."""
    table = FittingTable("published against ours, in millions, 224 x 224 pixels", elsewhere="--json FILE has them")
    table.add_column("table", importance=6)
    table.add_column("network: method, setting", NAME, folds=16)
    table.add_column("top-1", importance=5, justify="right")
    # published figures are often missing, ours never: where there is no room for both, ours stay
    for header, importance in (("params", 1), ("MACs", 2)):
        table.add_column(header, importance, justify="right")
        table.add_column(f"our\n{header}", importance=1, justify="right")
        table.add_column(f"{header}\ndiff.", importance=3, justify="right")
    table.add_column("executed", importance=4, justify="right")
    table.add_column("note", NAME, justify="right")
    table.add_column("source", importance=7, folds=16)
    reasons: list[str] = []
    for one in found:
        row = one.published
        if not one.agrees and row.reason not in reasons:
            reasons.append(row.reason)
        cells = [
            row.table,
            f"{row.network}: {', '.join(part for part in (row.method, row.setting) if part)}",
            row.top1,
            row.params_m,
            f"{one.params / 1e6:.2f}",
            _percent(one.params_difference),
            row.macs_m,
            f"{one.macs / 1e6:.1f}",
            _percent(one.macs_difference),
            f"{one.executed / 1e6:.1f}",
            "" if one.agrees else f"[{reasons.index(row.reason) + 1}]",
            row.source,
        ]
        table.add_row(*map(plain, cells), style=None if one.agrees else "yellow")
    agreeing = sum(one.agrees for one in found)
    tolerance = f"{PARAMS_TOLERANCE:.0%} of the parameters and {MACS_TOLERANCE:.0%} of the multiply-adds"
    return [
        table,
        *(plain(f"[{number}] {reason or 'no reason known'}") for number, reason in enumerate(reasons, 1)),
        plain(
            f"{len(found)} rows: {agreeing} within {tolerance} (or equal to all published digits), "
            f"{len(found) - agreeing} explained by a note."
        ),
        plain("MACs: each layer in its cheapest exact formulation, branch and mixing included; executed: what runs"),
    ]


def _percent(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.1f} %"


@cache
def _measure(build: str) -> tuple[int, int, int]:
    arguments: dict[str, Any] = json.loads(build)
    model = create_model(**arguments).eval()
    counted = profile(model, latency=False)
    return counted.params, counted.macs, profile(model, as_executed=True, latency=False).macs


def _difference(ours: int, published: str) -> float | None:
    return ours / (float(published) * 1e6) - 1 if published else None


def _within(ours: int, published: str, tolerance: float) -> bool:
    difference = _difference(ours, published)
    if difference is None or abs(difference) <= tolerance:
        return True
    digits = len(published.partition(".")[2])
    return round(ours / 1e6, digits) == float(published)
