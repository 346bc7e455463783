"""If these fail, the names of two classes change places, or a file of names is read as something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dyvision.data import DataError, ImageFolderDataModule


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(root, **{"batch_size": 2, "num_workers": 0, "image_size": 16, **options})


def test_names_come_from_words(folder: Path) -> None:
    (folder / "words.txt").write_text("dog\thound, cur\ncat\ttabby, mouser\nemu\tbird\n")
    data = module(folder)
    data.setup("fit")
    assert data.class_names == ["tabby", "hound"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Cat one\nDog two\n", ["Cat one", "Dog two"]),
        ("cat crane, bird\ndog crane\n", ["crane, bird (cat)", "crane (dog)"]),
    ],
)
def test_other_forms_of_the_names_file(folder: Path, text: str, names: list[str]) -> None:
    (folder / "names").write_text(text)
    data = module(folder, words="names")
    data.setup("fit")
    assert data.class_names == names


def test_names_that_do_not_fit(folder: Path) -> None:
    (folder / "words.txt").write_text("cat\tfeline\n")
    with pytest.raises(DataError, match=r"words.txt: no name for the class folders dog"):
        module(folder).setup("fit")
    with pytest.raises(DataError, match=r"words='nope.txt': there is no file"):
        module(folder, words="nope.txt").setup("fit")


def test_one_name_in_two_unicode_forms(tmp_path: Path, save: Any) -> None:
    composed, decomposed = "k\u00e4fer", "ka\u0308fer"
    for split, name in (("train", composed), ("val", decomposed)):
        save(tmp_path / split / name / "0.png")
        save(tmp_path / split / "cat" / "0.png")
    save(tmp_path / "train" / decomposed / "1.png")
    (tmp_path / "words.txt").write_text(f"{decomposed}\tBeetle\ncat\tCat\n", encoding="utf-8")
    data = module(tmp_path)
    data.setup("validate")
    assert data.class_names == ["Cat", "Beetle"]
    assert [data.datasets["val"][k]["label"] for k in range(2)] == [0, 1]
    assert len(data.build_dataset("train", train=True)) == 3


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("dog\ncat\n", ["cat", "dog"]),
        ("emu\ndog\ncat\n", ["cat", "dog"]),
        ("1 Dog\n0 Cat\n", ["Cat", "Dog"]),
        ("1 cat\n2 dog\n", ["cat", "dog"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_never_change_places(folder: Path, text: str, names: list[str], encoding: str) -> None:
    (folder / "words.txt").write_bytes(text.encode(encoding))
    data = module(folder)
    data.setup("fit")
    assert data.class_names == names


def test_names_in_an_unknown_encoding(folder: Path) -> None:
    (folder / "words.txt").write_bytes("cat\tK\u00e4tzchen\ndog\tHund\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"words.txt: not a text in utf-8"):
        module(folder).setup("fit")
