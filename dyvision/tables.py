"""Tables that fit the terminal: columns are left out where there is no room, the names of the rows never are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: importance of a column that names the rows
NAME = 0


@dataclass(frozen=True)
class _Column:
    header: str
    importance: int
    justify: Literal["left", "right"]
    folds: bool
    style: str | None


class FittingTable:
    """A table of rich that leaves out its least important columns until it fits, and says below which.

    Args:
        title: Above the table.
        caption: Below it.
        elsewhere: Where the columns left out are to be found (``"--json FILE has them"``).
    """

    def __init__(self, title: str | None = None, caption: str | None = None, elsewhere: str = "") -> None:
        self.title, self.caption, self.elsewhere = title, caption, elsewhere
        self._columns: list[_Column] = []
        self._rows: list[tuple[tuple[str | Text, ...], str | None] | None] = []

    def add_column(
        self,
        header: str,
        importance: int = 1,
        justify: Literal["left", "right"] = "left",
        folds: bool = False,
        style: str | None = None,
    ) -> None:
        """Add a column.

        Args:
            header: Its name.
            importance: :data:`NAME` for the names of the rows, which stay; otherwise columns with the largest number go
                first, of these the last.
            justify: ``"left"`` or ``"right"``.
            folds: Whether its cells may take several lines.
            style: Of its cells.
        """
        self._columns.append(_Column(header, importance, justify, folds, style))

    def add_row(self, *cells: str | Text, style: str | None = None) -> None:
        """Add a row, one cell per column; a string may have markup, a ``Text`` is shown as it is."""
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns")
        self._rows.append((cells, style))

    def add_section(self) -> None:
        """Draw a line before the next row."""
        self._rows.append(None)

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return sum(row is not None for row in self._rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render what fits into the width."""
        widths = self._widths()
        kept, dropped = list(range(len(self._columns))), []
        while _width(widths[index] for index in kept) > options.max_width:
            candidates = [index for index in kept if self._columns[index].importance != NAME]
            if not candidates:
                break
            worst = max(candidates, key=lambda index: (self._columns[index].importance, index))
            kept.remove(worst)
            dropped.append(worst)
        wide = self._title_above(_width(widths[index] for index in kept))
        if wide:
            yield Text.from_markup(str(self.title), style="table.title")
        # names that do not fit even so take several lines
        yield self._build(kept, widths, fold_names=_width(widths[index] for index in kept) > options.max_width)
        if dropped:
            names = ", ".join(self._columns[index].header for index in sorted(dropped))
            hint = "; ".join(part for part in ("a wider terminal (or COLUMNS=200) shows them", self.elsewhere) if part)
            yield Text(f"left out at {options.max_width} columns: {names}; {hint}", style="dim")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From the names alone to everything."""
        widths = self._widths()
        named = [width for width, column in zip(widths, self._columns, strict=True) if column.importance == NAME]
        return Measurement(min(_width(named), options.max_width), min(_width(widths), options.max_width))

    def _widths(self) -> list[int]:
        """What each column needs: its longest cell, unless it folds."""
        widths = []
        for index, column in enumerate(self._columns):
            cells = (_as_text(row[0][index]).cell_len for row in self._rows if row is not None)
            longest = max([cell_len(column.header), *cells])
            widths.append(min(longest, _FOLDED) if column.folds else longest)
        return widths

    def _title_above(self, width: int) -> bool:
        """Whether the title is a line of its own: rich breaks one that is wider than its table."""
        return self.title is not None and cell_len(Text.from_markup(self.title).plain) > width

    def _build(self, kept: list[int], widths: list[int], fold_names: bool = False) -> Table:
        above = self._title_above(_width(widths[index] for index in kept))
        table = Table(title=None if above else self.title, caption=self.caption, caption_justify="left")
        for index in kept:
            column = self._columns[index]
            folds = column.folds or fold_names
            table.add_column(
                column.header,
                justify=column.justify,
                style=column.style,
                no_wrap=not folds,
                overflow="fold",
                min_width=widths[index] if column.folds and not fold_names else None,
            )
        for row in self._rows:
            if row is None:
                table.add_section()
            else:
                table.add_row(*(row[0][index] for index in kept), style=row[1])
        return table


#: narrowest column whose cells fold, unless all of them are shorter
_FOLDED = 16


def _width(columns: Iterable[int]) -> int:
    """Width of a table: a border and two spaces per column, and the last border."""
    return sum(width + 3 for width in columns) + 1


def make_console(width: int = 140, **options: Any) -> Console:
    """A console as wide as the terminal or as ``COLUMNS`` says, or of the given width when piped into a file."""
    console = Console(**options)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return console
    return Console(width=width, **options)


def _as_text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text.from_markup(cell)
