"""If these fail, the names of two classes change places, or a file of names is read as something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyvision.data import DataError, ImageFolderDataModule
from dyvision.data.cityscapes_labels import LabelTable


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
        ("Tabby one\nHound two\n", ["Tabby one", "Hound two"]),
        ("Cat one\nDog two\n", ["one", "two"]),
        ("tabby cat\nhound dog\n", ["tabby cat", "hound dog"]),
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
        ("1,Dog\n0,Cat\n", ["Cat", "Dog"]),
        ("dog,Hund\ncat,Katze\n", ["Katze", "Hund"]),
        ('folder,name\n"dog","Hund, Welpe"\n"cat","Katze"\n', ["Katze", "Hund"]),
        ("Dog Hund\nCat Katze\n", ["Katze", "Hund"]),
        ("DOG;Hund\ncat; Katze\n", ["Katze", "Hund"]),
        ("dog: Hund\r\ncat: Katze\r\n", ["Katze", "Hund"]),
        ("Dog\nCat\n", ["Cat", "Dog"]),
        ("dog\tHund\ncat\tKatze\ncat fish\tWels\n", ["Katze", "Hund"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_never_change_places(folder: Path, text: str, names: list[str], encoding: str) -> None:
    (folder / "words.txt").write_bytes(text.encode(encoding))
    data = module(folder)
    data.setup("fit")
    assert data.class_names == names


@pytest.mark.parametrize(
    "text",
    ["Hund,dog\nKatze,cat\n", "hound dog\ntabby cat\n", "dog hound\nKatze\n", "cat\tA\ncat\tB\ndog\tC\n"],
)
def test_names_whose_order_is_another_are_refused(folder: Path, text: str) -> None:
    (folder / "words.txt").write_text(text)
    with pytest.raises(DataError, match=r"words.txt: (no name|several names) for the class folders"):
        module(folder).setup("fit")


def test_folders_that_differ_in_case_are_told_apart(tmp_path: Path, save: Any) -> None:
    for name in ("Cat", "cat", "dog"):
        for split in ("train", "val"):
            save(tmp_path / split / name / "0.png", np.full((8, 8, 3), len(name) + ord(name[0]), np.uint8))
    (tmp_path / "words.txt").write_text("dog,C\ncat,B\nCat,A\n")
    data = module(tmp_path)
    with pytest.warns(UserWarning):
        data.setup("validate")
    assert data.class_names == ["A", "B", "C"]


def test_control_characters_in_names_are_shown(folder: Path) -> None:
    (folder / "words.txt").write_text("cat\tKa\x1b[31mtze\ndog\tHu\x00nd\u2028\n", encoding="utf-8")
    data = module(folder)
    data.setup("validate")
    assert data.class_names == ["Ka\\x1b[31mtze", "Hu\\x00nd"]
    table = LabelTable(label_table={0: "a\x1b[0m", 1: "b"}, classes=["a\x1b[0m"])
    assert table.names == ["a\\x1b[0m"]
    assert LabelTable(label_colors={"c\x07": [1, 2, 3]}).names == ["c\\x07"]


def test_names_in_an_unknown_encoding(folder: Path) -> None:
    (folder / "words.txt").write_bytes("cat\tK\u00e4tzchen\ndog\tHund\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"words.txt: not a text in utf-8"):
        module(folder).setup("fit")
