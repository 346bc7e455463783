"""The map in docs/architecture.md. If these failed, the drawing or "Where do I change X" would lead astray."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.test_architecture import INSIDE, room

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DRAWING = TEXT.split("```mermaid")[1].split("```")[0]
WHERE = TEXT.split("## Where do I change X")[1].split("\n## ")[0]
ROWS = [line for line in WHERE.splitlines() if line.startswith("| ") and not line.startswith("| what")]
MAPPED = ("tasks", "data", "configs")


def below() -> dict[str, set[str]]:
    """What lies below each room of the drawing, along its solid arrows."""
    direct: dict[str, set[str]] = {}
    for line in DRAWING.splitlines():
        floors = [re.findall(r"\w+", floor) for floor in line.split("-->")]
        for upper, lower in pairwise(floors):
            for name in upper:
                direct.setdefault(name, set()).update(lower)

    def reached(name: str) -> set[str]:
        return direct.get(name, set()).union(*(reached(lower) for lower in direct.get(name, ())))

    return {name: reached(name) for name in direct}


def test_the_drawing_has_every_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "dyvision").glob("*/__init__.py")} | {*MAPPED, "below"}
    assert set(re.findall(r"^ +(\w+)\[", DRAWING, re.MULTILINE)) == rooms


@pytest.mark.parametrize("upper", sorted(below()))
def test_imports_follow_the_arrows(upper) -> None:
    for found in INSIDE:
        lower = room(found.imported) or "below"
        if room(found.importer) == upper and lower != upper:
            assert lower in below()[upper], found


def test_files_of_the_map_exist() -> None:
    for name in re.findall(r"`([\w/.]+\.(?:py|yaml|csv|md))`", WHERE):
        # test files of one folder are listed behind the first of them
        places = [ROOT / folder / name for folder in (".", "tests/layers", "tests/convert")]
        assert "NAME" in name or any(place.is_file() for place in places), name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_names_of_the_map_are_in_a_file_of_their_row(row) -> None:
    files = [ROOT / name for name in re.findall(r"`([\w/.]+\.py)`", row)]
    for name in re.findall(r"`(_\w+|[A-Z]\w+|build_\w+)`", row):
        assert any(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in files), name
