"""Ratios of ``dyvision benchmark`` as rows of a table, CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dyvision.saving import replacing, write_text
from dyvision.tables import NAME, FittingTable
from dyvision.text import plain

_CAPTION = (
    "Time of the first over that of the second: median over the rounds of the ratio within a round [10th-90th "
    "percentile]; all versions take turns. ms: median time of the second."
)
#: importance of what explains a ratio: all ratios of all batches come first
_DETAIL = 1000


@dataclass(frozen=True)
class Row:
    """One ratio.

    Attributes:
        what: ``operators``, ``models`` or ``training``.
        group: Shape of the convolution, or the network.
        name: What was measured.
        reference: What it is compared with.
        batch: Images per batch.
        input_size: Height and width of the network's images.
        ratio: Median over the rounds of time over the reference's time.
        low: 10th percentile.
        high: 90th percentile.
        reference_ms: Median time of the reference.
        rounds: Rounds.
        memory_mib: Peak memory, if it was measured.
        memory_ratio: Over the reference's.
        note: Of an operator: how often the networks have it.
        best: The fastest formulation, if that is the reference.
    """

    what: str
    group: str
    name: str
    reference: str
    batch: int
    input_size: int
    ratio: float
    low: float
    high: float
    reference_ms: float
    rounds: int
    memory_mib: float | None = None
    memory_ratio: float | None = None
    note: str = ""
    best: str = ""


def make_table(rows: Sequence[Row], title: str) -> FittingTable:
    """One line per group, reference and thing measured, one column per batch."""
    batches = list(dict.fromkeys(row.batch for row in rows))
    memory = any(row.memory_ratio is not None for row in rows)
    table = FittingTable(title, _CAPTION, elsewhere="--csv and --json have them")
    best = any(row.best for row in rows)
    table.add_column("what", NAME, folds=16)
    table.add_column("measured / over", NAME, folds=20)
    for place, batch in enumerate(batches):
        table.add_column(f"batch {batch}", importance=1 + place, justify="right")
        table.add_column(f"percentiles (batch {batch})", importance=_DETAIL + place, joined=True)
        if best:
            table.add_column(f"fastest (batch {batch})", importance=_DETAIL, joined=True)
        table.add_column(f"ms\nbatch {batch}", importance=2 * _DETAIL, justify="right", style="dim")
        if memory:
            table.add_column(f"memory\nbatch {batch}", importance=1 + place, justify="right")
            table.add_column(f"MiB (batch {batch})", importance=_DETAIL + place, joined=True)
    cells = {(row.group, row.name, row.reference, row.batch): row for row in rows}
    previous = None
    for group, name, reference in dict.fromkeys((row.group, row.name, row.reference) for row in rows):
        found = [cells.get((group, name, reference, batch)) for batch in batches]
        if group != previous and previous is not None:
            table.add_section()
        note = next((row.note for row in found if row is not None and row.note), "")
        line = [f"{group}{note and f' ({note})'}" if group != previous else "", f"{name} / {reference}"]
        for row in found:
            line += _cells(row, best, memory)
        table.add_row(*map(plain, line))
        previous = group
    return table


def _cells(row: Row | None, best: bool, memory: bool) -> list[str]:
    """What one batch has in a line; nothing where it was not measured."""
    if row is None:
        return [""] * (3 + best + 2 * memory)
    texts = [f"{row.ratio:.2f}", f"[{row.low:.2f}-{row.high:.2f}]", *([row.best] if best else [])]
    texts.append(f"{row.reference_ms:.3g}")
    if memory:
        known = row.memory_ratio is not None and row.memory_mib is not None
        texts += [f"{row.memory_ratio:.2f}", f"({row.memory_mib:.0f} MiB)"] if known else ["", ""]
    return texts


def geometric_means(rows: Sequence[Row]) -> dict[tuple[str, str], dict[int, float]]:
    """Mean over the groups of each ratio, by (measured, over) and batch; each group counts once."""
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        values.setdefault((row.name, row.reference), {}).setdefault(row.batch, []).append(math.log(row.ratio))
    return {
        key: {batch: math.exp(sum(logs) / len(logs)) for batch, logs in batches.items()}
        for key, batches in values.items()
    }


def make_summary(rows: Sequence[Row]) -> FittingTable:
    """Geometric means as a table."""
    table = FittingTable("geometric mean over the shapes")
    table.add_column("measured / over", NAME, folds=20)
    table.add_column("shapes", importance=_DETAIL, justify="right")
    batches = list(dict.fromkeys(row.batch for row in rows))
    for place, batch in enumerate(batches):
        table.add_column(f"batch {batch}", importance=1 + place, justify="right")
    for (name, reference), means in geometric_means(rows).items():
        groups = {row.group for row in rows if (row.name, row.reference) == (name, reference)}
        ratios = [f"{means[batch]:.2f}" if batch in means else "" for batch in batches]
        table.add_row(*map(plain, [f"{name} / {reference}", str(len(groups)), *ratios]))
    return table


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write one line per row under a line of names; what was not measured is empty."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def write_json(rows: Sequence[Row], machine: Mapping[str, object], path: Path) -> None:
    """Write ``{"machine": ..., "rows": [...]}``."""
    text = json.dumps({"machine": dict(machine), "rows": [asdict(row) for row in rows]}, indent=1)
    write_text(path, f"{text}\n")
