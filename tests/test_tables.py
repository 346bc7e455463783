"""If these fail, a narrow terminal loses the names of the rows, or columns without a word."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dyvision.tables import NAME, FittingTable

ROWS = [("blocks.0.0.conv_depthwise", "DyConv2d", "1,234,567"), ("classifier", "Linear", "12")]


def render(width: int) -> str:
    table = FittingTable("title", elsewhere="--json has them")
    table.add_column("module", NAME)
    table.add_column("class", importance=2)
    table.add_column("parameters", importance=1, justify="right")
    for row in ROWS:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


@pytest.mark.parametrize("width", [200, 60, 50, 45, 40, 30])
def test_names_stay_and_lines_fit(width) -> None:
    text = render(width)
    assert all(len(line) <= width for line in text.splitlines())
    assert all(name in text for name, *_ in ROWS)
    for header, cell in (("class", "DyConv2d"), ("parameters", "1,234,567")):
        assert cell in text or header in " ".join(text.split("left out")[1].split())


def test_the_least_important_column_goes_first_and_nothing_at_full_width() -> None:
    assert "left out" not in render(80)
    assert "1,234,567" in render(45) and "DyConv2d" not in render(45)


def test_names_wider_than_the_terminal_take_several_lines() -> None:
    text = "".join(line.strip("│┃ ").strip() for line in render(16).splitlines())
    assert "blocks.0.0.c" in text and "classifier" in text


def test_names_that_fold_leave_the_values() -> None:
    table = FittingTable()
    table.add_column("class", NAME, folds=True)
    table.add_column("IoU", justify="right")
    table.add_row("a very long name of a class, as data sets of plants have them", "0.1234")
    out = io.StringIO()
    Console(file=out, width=40).print(table)
    assert "0.1234" in out.getvalue() and "left out" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 40


def test_every_row_has_all_cells() -> None:
    table = FittingTable()
    table.add_column("a", NAME)
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        table.add_row("x", "y")
