"""If these fail, a report or a picture about a data set overwrites a file of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dyvision.cli import main


@pytest.fixture
def coco(sample_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_data / "coco", tmp_path / "coco"))


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_a_report_never_replaces_annotations(coco: Path, capsys: Any, link: Any) -> None:
    source = next((coco / "annotations").glob("instances_val*.json"))
    before = source.read_bytes()
    output = source
    if link is os.symlink:
        output = coco.parent / "report.json"
        link(source, output)
    elif link is os.link:
        output = coco / "report.json"
        link(source, output)
    assert main(["data", "check", str(coco), "--format", "coco", "--workers=0", f"--json={output}"]) == 2
    assert "lies in the data set" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_sheet_never_replaces_an_image(coco: Path, tmp_path: Path, capsys: Any) -> None:
    image = next(coco.glob("*/*.png"), None) or next(coco.glob("*/*.jpg"))
    before = image.read_bytes()
    assert main(["data", "show", str(coco), "--split=val", f"--output={image}", "--count=2"]) == 2
    assert "--output" in capsys.readouterr().err
    assert image.read_bytes() == before
    sheet = tmp_path / "sheet.png"
    for _ in range(2):  # one's own is written anew
        assert main(["data", "show", str(coco), "--split=val", f"--output={sheet}", "--count=2"]) == 0


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg"])
def test_a_sheet_inside_the_data_set_is_drawn_anew(coco: Path, monkeypatch: Any, capsys: Any, name: str) -> None:
    monkeypatch.chdir(coco)
    show = ["data", "show", ".", "--count=2", *([] if name == "sheet.png" else [f"--output={name}"])]
    assert main([*show, "--split=val2017"]) == 0, capsys.readouterr().err
    before = Path(name).read_bytes()
    assert main([*show, "--split=train2017"]) == 0, capsys.readouterr().err
    assert Path(name).read_bytes() != before
    image = next(coco.glob("val*/*.*"))
    Path(name).write_bytes(image.read_bytes())
    assert main(show) == 2  # a picture of that name that is no sheet
    assert Path(name).read_bytes() == image.read_bytes()


def test_annotations_outside_the_root_count_as_data(coco: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    (coco / "annotations").rename(moved)
    target = next(moved.glob("*val*.json"))
    before = target.read_bytes()
    options = [f"--data.annotations={moved}/instances_{{split}}.json", f"--json={target}", "--workers=0"]
    assert main(["data", "check", str(coco), "--format=coco", *options]) == 2
    assert target.read_bytes() == before
