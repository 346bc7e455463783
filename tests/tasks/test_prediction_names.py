"""If these failed, two images would share a file of predictions, or one would not be found by its image's name."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from dyvision.saving import replacing
from dyvision.tasks.callbacks.predictions import output_name


def names(folder: Path, *files: str) -> dict[str, str]:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return {name: output_name(folder / name, [folder]).as_posix() for name in files}


def key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@pytest.mark.parametrize(
    "files",
    [
        ("a.jpg", "a.ppm"),
        ("a.jpg", "a.jpeg", "a.png", "a.tif", "a.gif", "a.pgm"),
        ("a.jpg", "a.jpg.png"),
        ("a.jpg", "a.png", "a.jpg.png", "a.png.png", "a.jpg.jpg.png"),
        ("A.jpg", "a.png"),
        ("A.jpg", "a.jpg", "a-2.jpg", "a.jpg-2.png"),
        ("a.png/b.jpg", "a.jpg"),
        ("Photos/a.jpg", "photos/a.jpg"),
        ("x/a.jpg", "y/a.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.png"),
        (f"{'x' * 251}.jpg", f"{'x' * 251}.png", f"{'x' * 251}.ppm"),
        (f"{'ä' * 120}1.jpg", f"{'ä' * 120}1.ppm"),
    ],
)
def test_every_image_has_a_name_of_its_own(files: tuple[str, ...], tmp_path: Path) -> None:
    found = names(tmp_path / "in", *files)
    # also where the file system ignores case or the Unicode form
    assert len({key(name) for name in found.values()}) == len(files)
    for name in found.values():
        assert name.endswith(".png") and not Path(name).is_absolute() and ".." not in Path(name).parts
        with replacing(tmp_path / "out" / name) as part:
            part.write_bytes(b"x")
    assert found == {name: output_name(tmp_path / "in" / name, [tmp_path / "in"]).as_posix() for name in files}


def test_names_stay_short_where_they_can(tmp_path: Path) -> None:
    found = names(tmp_path, "a.jpg", "a.json", "b.tar.png", "c", ".d.jpg", "sub/e.JPG")
    assert found == {
        "a.jpg": "a.png", "a.json": "a.json.png", "b.tar.png": "b.tar.png", "c": "c.png", ".d.jpg": ".d.png",
        "sub/e.JPG": "sub/e.png",
    }  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege elsewhere")
def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    names(tmp_path / "store", "deadbeef.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").symlink_to(tmp_path / "store" / "deadbeef.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    for folder in ("photos", "linked"):
        assert output_name(tmp_path / folder / "holiday.jpg", [tmp_path / folder]) == Path("holiday.png")
    assert output_name(tmp_path / "linked" / "holiday.jpg", [tmp_path / "photos"]) == Path("holiday.png")


def test_nothing_leaves_the_folder(tmp_path: Path) -> None:
    names(tmp_path, "in/a.jpg", "other/b.jpg")
    outside = output_name(tmp_path / "in" / ".." / "other" / "b.jpg", [tmp_path / "in"])
    assert not outside.is_absolute() and ".." not in outside.parts and outside.name == "b.png"
    vanished = output_name(tmp_path / "gone" / "c.jpg", [tmp_path])
    assert vanished == Path("gone/c.png")
