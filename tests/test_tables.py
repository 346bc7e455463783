"""If these fail, a narrow terminal loses the names of the rows, or columns without a word."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dyvision.tables import NAME, FittingTable, make_console
from dyvision.text import plain

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


def joined_table(width: int) -> str:
    table = FittingTable("ratios", caption="what the numbers mean " * 5)
    table.add_column("network", NAME, folds=10)
    table.add_column("time\n(ms)", importance=1, justify="right")
    table.add_column("percentiles", importance=2, joined=True)
    table.add_row("a network of several words", "1.50", plain("[1.40-1.60]"))
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_what_is_joined_stands_behind_its_column_and_goes_first() -> None:
    wide, narrow, narrowest = joined_table(80), joined_table(28), joined_table(14)
    assert "1.50 [1.40-1.60]" in wide and "a network of several words" in wide and "left out" not in wide
    assert (
        "1.50" in narrow and "1.40" not in narrow and "left out at 28 columns: percentiles;" in " ".join(narrow.split())
    )
    assert "1.50" not in narrowest and "time (ms), percentiles" in " ".join(narrowest.split())
    for text, width in ((wide, 80), (narrow, 28), (narrowest, 14)):
        # whole words, straight edges, and a caption as wide as the terminal
        assert all(word in text for word in ("network", "several", "words", "numbers"))
        assert len({len(line) for line in text.splitlines() if line[:1] in "┏┃┡│└"}) == 1
        assert max(map(len, text.splitlines())) <= width
    assert "what the numbers mean what the numbers mean" in wide


def test_what_is_left_goes_to_the_longest_column_that_folds() -> None:
    table = FittingTable()
    table.add_column("short", NAME, folds=4)
    table.add_column("long", NAME, folds=4)
    table.add_row("one two", "one two three four five")
    for width, lines in ((37, 5), (30, 6)):
        out = io.StringIO()
        Console(file=out, width=width).print(table)
        text = out.getvalue()
        assert len(text.splitlines()) == lines and "left out" not in text
        assert "one two three four" in text and all(len(line) <= width for line in text.splitlines())


def test_piped_tables_have_room_and_terminals_say_theirs(monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console(file=io.StringIO()).width == 180
    monkeypatch.setenv("COLUMNS", "60")
    assert make_console(file=io.StringIO()).width == 60
