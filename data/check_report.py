"""Findings and statistics of a check as tables."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dyvision.data.check import Report
from dyvision.data.findings import Finding
from dyvision.data.statistics import SplitStatistics
from dyvision.tables import NAME, FittingTable, make_console
from dyvision.text import plain, printable

_STYLES = {"refused": "red", "warned": "yellow", "repaired": "green"}
_CLASSES_SHOWN = 40
_COUNTED = {"classification": "images", "segmentation": "share of pixels", "detection": "objects"}


def print_report(report: Report, root: Path) -> None:
    """Print findings, one row per kind, and statistics, one row per class.

    Args:
        report: What was found.
        root: Folder of the data set; files are shown relative to it.
    """
    console = make_console()
    for split in report.splits:
        _print_split(console, split, report.duplicates.get(split.split, 0))
    classes = len(report.splits[0].class_names) if report.splits else 0
    if classes > _CLASSES_SHOWN:
        console.print(f"{classes} classes: --json FILE has the counts of each", highlight=False)
    elif classes:
        console.print(_class_table(report.splits, report.task))
    found = report.findings.all
    if not found:
        console.print("nothing to repair, to doubt or to refuse")
        return
    table = FittingTable(f"findings in {printable(root)}", lines=True)
    table.add_column("", NAME)
    for name in ("file, where", "what", "training"):
        table.add_column(name, NAME, folds=16)
    for kind in _STYLES:
        for group in _groups([one for one in found if one.outcome == kind]):
            table.add_row(*map(_lines, _row(group, root)), style=_STYLES[kind])
    console.print(table)
    counts = {kind: sum(one.count for one in found if one.outcome == kind) for kind in _STYLES}
    console.print(", ".join(f"{count} {kind}" for kind, count in counts.items() if count))


def _groups(found: list[Finding]) -> list[list[Finding]]:
    """Findings of the same kind in different files belong together."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for one in found:
        groups.setdefault((one.what, one.training), []).append(one)
    return list(groups.values())


def _row(group: list[Finding], root: Path) -> list[str]:
    first = group[0]
    file = _relative(first.file, root)
    if len(group) > 1:
        file += f" and {len(group) - 1} more file{'s' * (len(group) > 2)}"
    count = sum(one.count for one in group)
    where = ", ".join(_relative(example, root) for example in first.examples)
    more = count - len(first.examples)
    if len(group) == 1 and first.examples and more > 0:
        where += f" and {more} more"
    file += f"\n({where})" if where else ""
    outcome = first.outcome if count == 1 else f"{first.outcome} {count}x"
    # files in sentences are relative, too: the title has the root
    what, training = (text.replace(f"{root}{os.sep}", "") for text in (first.what, first.training))
    return [outcome, file, what, training]


def _lines(text: str) -> Text:
    """A cell whose own line breaks stay."""
    return Text("\n").join(map(plain, text.split("\n")))


def _relative(file: str, root: Path) -> str:
    path = Path(file)
    return str(path.relative_to(root)) if path.is_relative_to(root) else file


def _print_split(console: Console, split: SplitStatistics, duplicates: int) -> None:
    parts = [f"{split.images} images"]
    if split.broken:
        parts.append(f"{split.broken} that cannot be read")
    extent = split.smallest_and_largest()
    if extent is not None:
        (low_h, low_w), (high_h, high_w) = extent
        one = extent[0] == extent[1]
        parts.append(f"{low_h}x{low_w}" if one else f"from {low_h}x{low_w} to {high_h}x{high_w} (height x width)")
    share = split.ignored_share()
    if share is not None:
        parts.append(f"{100 * share:.1f} % of the pixels ignored")
    if duplicates:
        parts.append(f"{duplicates} repeat another one's content")
    console.print(plain(f"{split.split}: {', '.join(parts)}"))


def _class_table(splits: list[SplitStatistics], task: str) -> FittingTable:
    table = FittingTable(_COUNTED.get(task, "images or objects"), elsewhere="--json FILE has them")
    table.add_column("class", NAME, folds=16)
    for place, split in enumerate(splits, 1):
        table.add_column(printable(split.split), importance=place, justify="right")
    for index, name in enumerate(splits[0].class_names):
        table.add_row(plain(name), *(_cell(split, index) for split in splits))
    return table


def _cell(split: SplitStatistics, index: int) -> str:
    if split.pixels is not None:
        total = int(split.pixels.sum()) + split.ignored
        return f"{100 * int(split.pixels[index]) / total:.2f} %" if split.pixels[index] else "-"
    return str(split.objects[index]) if split.objects[index] else "-"
