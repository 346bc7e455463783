"""What ``dynamize`` did to a network, layer by layer."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dyvision.text import plain, printable, some

if TYPE_CHECKING:
    from dyvision.tables import FittingTable

#: of a table that is printed as text
_WIDTH = 80


@dataclass(frozen=True)
class ConvertedLayer:
    """One convolution, and the layer in its place.

    Attributes:
        name: Its name in ``model.named_modules()``.
        before: Class of the convolution; empty for a branch that the layers of a block share.
        after: Class of the layer.
        params_before: Parameters of the convolution.
        params_after: Parameters of the layer; what several layers share counts for the first of them.
        macs_before: Multiply-adds of the convolution for the example input; None without one.
        macs_after: Multiply-adds that the layer executes, its branch and the mixing of kernels included.
        note: What is special: the options that did not fit, and those it has instead.
    """

    name: str
    before: str
    after: str
    params_before: int
    params_after: int
    macs_before: int | None = None
    macs_after: int | None = None
    note: str = ""


@dataclass(frozen=True)
class ConversionReport:
    """What ``dynamize`` did; ``print(report)`` is a table.

    Attributes:
        layer: Name of the layer.
        rows: One per layer, and one per branch that the layers of a block share, in the order of the network.
        own_branches: Blocks whose layers keep a branch each though the method shares one, and why.
        static: Convolutions that a policy chose or could have chosen and that stay static, and why.
        params_before: Parameters of the whole network.
        params_after: The same afterwards.
        macs_before: Multiply-adds of all convolutions and matrix products for the example input; None without one.
        macs_after: The same afterwards, as executed.
        input_size: Shape of the example input, or None.
    """

    layer: str
    rows: tuple[ConvertedLayer, ...] = ()
    own_branches: Mapping[str, str] = field(default_factory=dict)
    static: Mapping[str, str] = field(default_factory=dict)
    params_before: int = 0
    params_after: int = 0
    macs_before: int | None = None
    macs_after: int | None = None
    input_size: tuple[int, ...] | None = None

    def table(self) -> FittingTable:
        """One line per layer and the total of the network."""
        from dyvision.tables import NAME, FittingTable

        counted = self.macs_before is not None
        size = f", input {' x '.join(map(str, self.input_size))}" if self.input_size else ""
        count = sum(bool(row.before) for row in self.rows)
        table = FittingTable(f"{count} convolutions became {self.layer}{size}", elsewhere="report.rows has them")
        table.add_column("layer", NAME)
        table.add_column("was", importance=5)
        table.add_column("is", importance=4)
        for header, importance in (("parameters", 2), ("now", 1), *((("MACs\n(M)", 2), ("now", 1)) if counted else ())):
            table.add_column(header, importance, justify="right")
        noted = any(row.note for row in self.rows)
        if noted:
            table.add_column("note", importance=3, folds=16)

        def add(name: str, row: Any, classes: tuple[str, str], note: str, style: str | None = None) -> None:
            cells = [f"{row.params_before:,}", f"{row.params_after:,}"]
            cells += [f"{(macs or 0) / 1e6:.2f}" for macs in (row.macs_before, row.macs_after)] if counted else []
            table.add_row(plain(name), *map(plain, classes), *cells, *((plain(note),) if noted else ()), style=style)

        for row in self.rows:
            add(row.name or "(model)", row, (row.before, row.after), row.note)
        table.add_section()
        add("whole network", self, ("", ""), "", "bold")
        return table

    def remarks(self) -> list[str]:
        """Sentences: blocks with a branch per layer, and convolutions that stay static, by their reasons."""
        branches = _grouped(self.own_branches, "{} keep a branch per layer: {}")
        return [*branches, *_grouped(self.static, "{} stay static: {}")]

    def __str__(self) -> str:
        """The table and the remarks, as wide as ``COLUMNS`` says or 80 columns."""
        from rich.console import Console

        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() and int(columns) else _WIDTH
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(self.table())
        for remark in self.remarks():
            console.print(plain(remark))
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _grouped(reasons: Mapping[str, str], sentence: str) -> Sequence[str]:
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(printable(name) or "(model)")
    return [sentence.format(some(found, 3), printable(reason)) for reason, found in names.items()]
