"""If these fail, a command is busy for minutes without a word, or fills a log with a spinner."""

from __future__ import annotations

import io

from rich.console import Console

from dyvision.cli._progress import working


def test_a_log_has_one_line_for_each_step(capsys) -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with working(console, "exporting a\x1b.onnx"):
        assert capsys.readouterr().err == "exporting a\\x1b.onnx ...\n"  # before it is done
    assert console.file.getvalue() == "" and capsys.readouterr() == ("", "")


def test_a_terminal_shows_it_as_long_as_it_takes(capsys) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with working(console, "exporting a.onnx"):
        pass
    assert "exporting a.onnx" in console.file.getvalue() and capsys.readouterr().err == ""
