"""The code about conversion in the documentation runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"
SECTIONS = ("return_report", "collapse")


@pytest.mark.parametrize("word", SECTIONS)
def test_code_of_the_page_on_layers_runs(word, capsys) -> None:
    blocks = [
        code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S) if word in code
    ]
    assert blocks
    for code in blocks:
        exec(compile(code, str(PAGE), "exec"), {})
    assert word != "return_report" or "whole network" in capsys.readouterr().out
