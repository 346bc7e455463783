"""Tables that fit the terminal: columns are left out where there is no room, the names of the rows never are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: importance of a column that names the rows
NAME = 0
#: a column whose cells fold is at least as wide as its longest word up to this, if it needs that much
_WORD = 28
#: width of what is piped into a file, where no terminal says one
_PIPED = 180


@dataclass(frozen=True)
class _Column:
    header: str
    importance: int
    justify: Literal["left", "right"]
    folds: int
    joined: bool
    style: str | None

    @property
    def name(self) -> str:
        """The header on one line."""
        return " ".join(self.header.split())


@dataclass
class _Block:
    """A column as it is drawn: with what is joined to it."""

    column: _Column
    cells: Sequence[Text]

    @cached_property
    def longest(self) -> int:
        """Its longest line."""
        return max(cell_len(line) for text in self._texts for line in text.split("\n"))

    @cached_property
    def width(self) -> int:
        """What it needs: its longest line, unless it folds."""
        if not self.column.folds:
            return self.longest
        longest_word = max((cell_len(word) for text in self._texts for word in text.split()), default=0)
        return min(self.longest, max(self.column.folds, min(longest_word, _WORD)))

    @property
    def _texts(self) -> list[str]:
        return [self.column.header, *(cell.plain for cell in self.cells)]


class FittingTable:
    """A table of rich that leaves out its least important columns until it fits, and says below which.

    Text is text: neither headers nor title nor caption have markup. Characters that the terminal's encoding lacks are
    replaced before anything is measured.

    Args:
        title: Above the table.
        caption: Below it, as wide as the terminal.
        elsewhere: Where the columns left out are to be found (``"--json FILE has them"``).
        lines: Draw a line between all rows.
    """

    def __init__(
        self, title: str | None = None, caption: str | None = None, elsewhere: str = "", lines: bool = False
    ) -> None:
        self.title, self.caption, self.elsewhere, self.lines = title, caption, elsewhere, lines
        self._columns: list[_Column] = []
        self._rows: list[tuple[tuple[str | Text, ...], str | None] | None] = []

    def add_column(
        self,
        header: str,
        importance: int = 1,
        justify: Literal["left", "right"] = "left",
        folds: int = 0,
        joined: bool = False,
        style: str | None = None,
    ) -> None:
        r"""Add a column.

        Args:
            header: Its name; a ``\n`` in it saves width.
            importance: :data:`NAME` for the names of the rows, which stay; otherwise columns with the largest number go
                first, of these the last.
            justify: ``"left"`` or ``"right"``.
            folds: How narrow it may become, its cells taking several lines; 0 for not at all. Words up to 28 letters
                are never broken.
            joined: Draw its cells behind those of the column before, under the header of that one. It is left out by
                its own importance, which is larger.
            style: Of its cells.
        """
        self._columns.append(_Column(header, importance, justify, folds, joined, style))

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
        kept, dropped = list(range(len(self._columns))), []
        blocks = self._blocks(kept, console)
        while _width(blocks) > options.max_width:
            candidates = [index for index in kept if self._columns[index].importance != NAME]
            if not candidates:
                break
            worst = max(candidates, key=lambda index: (self._columns[index].importance, index))
            kept.remove(worst)
            dropped.append(worst)
            blocks = self._blocks(kept, console)
        widths = _widths(blocks, options.max_width)
        # rich breaks a title that is wider than its table
        above = self.title is not None and cell_len(self.title) > _width(blocks)
        if above:
            yield _encodable(Text(str(self.title), style="table.title"), console)
        yield self._build(blocks, widths, not above, console)
        if self.caption:
            yield _encodable(Text(self.caption, style="table.caption"), console)
        if dropped:
            names = ", ".join(self._columns[index].name for index in sorted(dropped))
            hint = "; ".join(part for part in ("a wider terminal (or COLUMNS=200) shows them", self.elsewhere) if part)
            text = Text(f"left out at {options.max_width} columns: {names}; {hint}", style="dim")
            yield _encodable(text, console)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From the names alone to everything."""
        every = self._blocks(range(len(self._columns)), console)
        named = [block for block in every if block.column.importance == NAME]
        return Measurement(min(_width(named), options.max_width), min(_width(every), options.max_width))

    def _blocks(self, kept: Iterable[int], console: Console) -> list[_Block]:
        blocks: list[_Block] = []
        for index in kept:
            column = self._columns[index]
            cells = [_encodable(_as_text(row[0][index]), console) for row in self._rows if row is not None]
            if column.joined:
                before = blocks.pop()
                pairs = zip(before.cells, cells, strict=True)
                blocks.append(_Block(before.column, [Text(" ").join(_written(pair)) for pair in pairs]))
            else:
                blocks.append(_Block(column, cells))
        return blocks

    def _build(self, blocks: Sequence[_Block], widths: Sequence[int | None], titled: bool, console: Console) -> Table:
        title = _encodable(Text(self.title), console) if self.title is not None and titled else None
        table = Table(title=title, show_lines=self.lines)
        for block, width in zip(blocks, widths, strict=True):
            table.add_column(
                _encodable(Text(block.column.header), console),
                justify=block.column.justify,
                style=block.column.style,
                overflow="fold",
                width=width,
            )
        rows = zip(*(block.cells for block in blocks), strict=True)
        for row in self._rows:
            if row is None:
                table.add_section()
            else:
                table.add_row(*next(rows), style=row[1])
        return table


def make_console(**options: Any) -> Console:
    """A console as wide as the terminal or as ``COLUMNS`` says; what is piped into a file has room for every column."""
    console = Console(**options)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return console
    return Console(width=_PIPED, **options)


def _width(blocks: Iterable[_Block]) -> int:
    """Width of a table: a border and two spaces per column, and the last border."""
    return sum(block.width + 3 for block in blocks) + 1


def _widths(blocks: Sequence[_Block], most: int) -> list[int | None]:
    """Width of each column: what it needs, and what is left for those that fold, which are the longest ones first.

    Names that do not fit even so are rich's to fold.
    """
    if _width(blocks) > most:
        return [None] * len(blocks)
    widths = [block.width for block in blocks]
    for _ in range(most - _width(blocks)):
        missing = [block.longest - width for block, width in zip(blocks, widths, strict=True)]
        if max(missing) <= 0:
            break
        widths[missing.index(max(missing))] += 1
    return list(widths)


def _as_text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text.from_markup(cell)


def _written(cells: Iterable[Text]) -> Iterator[Text]:
    return (cell for cell in cells if cell.plain)


def _encodable(text: Text, console: Console) -> Text:
    r"""The text as the console's file will write it, which may be longer: ``\u4eba``."""
    try:
        text.plain.encode(console.encoding)
        return text
    except UnicodeEncodeError:
        errors = getattr(console.file, "errors", None)
        raw = text.plain.encode(console.encoding, errors if errors not in (None, "strict") else "backslashreplace")
        return Text(raw.decode(console.encoding, "replace"), style=text.style)
