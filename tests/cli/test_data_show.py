"""``dyvision data show`` and ``data check`` of sets of which a file is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dyvision.cli import main


def status_of(arguments: list[str]) -> int:
    """The exit status, however the command ends."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (32, 32), (number * 90, 40, 7)).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("options", [[], ["--data.image_size=32"]])
def test_the_others_are_drawn_and_the_broken_one_is_listed(root, options, capfd) -> None:
    broken = root / "train" / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    assert status_of(["data", "show", str(root), f"--output={root / 'sheet.png'}", *options]) == 1
    with Image.open(root / "sheet.png") as sheet:
        assert sheet.width > 0
    captured = capfd.readouterr()
    assert captured.err.splitlines() == [line for line in captured.err.splitlines() if line.startswith("left out: ")]
    assert captured.err.count(str(broken)) == 1
    assert "sheet.png" in captured.out


def test_without_broken_files_all_is_well(root, capfd) -> None:
    assert status_of(["data", "show", str(root), f"--output={root / 'sheet.png'}"]) == 0
    assert not capfd.readouterr().err


def test_nothing_but_broken_files_is_one_line(root, capfd) -> None:
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"no picture")
    assert status_of(["data", "show", str(root), f"--output={root / 'sheet.png'}"]) == 2
    assert capfd.readouterr().err.startswith("dyvision: error: none of 4 samples can be read: ")
    assert not (root / "sheet.png").exists()


def test_a_check_counts_in_the_words_of_the_format(root, capfd) -> None:
    assert status_of(["data", "check", str(root), "--workers=0"]) in (0, 1)
    out = capfd.readouterr().out
    assert "objects" not in out
    assert any(line.strip() == "images" for line in out.splitlines())


@pytest.mark.parametrize("command", [["show", "--output"], ["check", "--json"]])
def test_a_folder_given_as_file_is_told_before_anything_is_read(root, command, capfd) -> None:
    assert status_of(["data", command[0], str(root), command[1], str(root)]) == 2
    captured = capfd.readouterr()
    assert captured.err == f"dyvision: error: {command[1]} {root}: a folder; give a file in it\n"
    assert not captured.out
