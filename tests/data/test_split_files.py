"""If these fail, a list of samples reads a file from elsewhere, or makes classes that nobody meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dyvision.data import CityscapesDataModule, DataError, ImageFolderDataModule
from dyvision.data.check import check


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    given = {"batch_size": 2, "num_workers": 0, "image_size": 8, "split_file": "{split}.txt", **options}
    return ImageFolderDataModule(root, **given)


@pytest.fixture
def listed(tmp_path: Path, save: Any) -> Path:
    for name in ("cat/a", "dog/b"):
        save(tmp_path / "train" / f"{name}.png")
        save(tmp_path / "val" / f"{name}.png")
    (tmp_path / "val.txt").write_text("val/cat/a.png 0\nval/dog/b.png 1\n")
    (tmp_path / "train.txt").write_text("train/cat/a.png 0\ntrain/dog/b.png 1\n")
    return tmp_path


@pytest.mark.parametrize("number", ["300000000", "99999999999", "9" * 5000, "100000"])
def test_a_large_number_of_a_class_is_refused_by_line(listed: Path, number: str) -> None:
    (listed / "train.txt").write_text(f"# x\ntrain/dog/b.png 1\ntrain/cat/a.png {number}\n")
    with pytest.raises(DataError, match=r"train\.txt: line 3: the class number 9*.* is too large"):
        module(listed).setup("fit")


def test_numbers_that_are_left_out_are_told(listed: Path) -> None:
    (listed / "train.txt").write_text("train/cat/a.png 1\ntrain/dog/b.png 2\n")
    with pytest.warns(UserWarning, match=r"train\.txt: 1 classes have no image here: 0"):
        data = module(listed)
        data.setup("fit")
    assert data.num_classes == 3


def test_numbered_folders_keep_their_names(listed: Path, save: Any) -> None:
    for name in ("07", "12"):
        save(listed / "train" / name / "c.png")
    (listed / "train.txt").write_text("train/07/c.png\ntrain/12/c.png\n")
    (listed / "val.txt").write_text("val/cat/a.png 12\nval/dog/b.png 07\n")
    data = module(listed)
    data.setup("fit")
    assert data.class_names == ["07", "12"]
    assert data.datasets["val"].strata() == [1, 0]


@pytest.mark.parametrize("file", ["../out.png", "{outside}", "cat/../../out.png"])
def test_files_outside_the_root_are_refused(listed: Path, save: Any, file: str) -> None:
    root = listed / "val"
    save(listed / "out.png")
    (root / "train.txt").write_text(f"cat/a.png 0\n{file.format(outside=listed / 'out.png')} 1\n")
    (root / "val.txt").write_text("dog/b.png 1\n")
    with pytest.raises(DataError, match=r"train\.txt: line 2: .*out\.png' leaves the root"):
        module(root).setup("fit")
    assert check(module(root)).findings.refused


def test_an_absolute_path_below_the_root_is_none_of_those(listed: Path, tmp_path_factory: Any) -> None:
    (listed / "train.txt").write_text(f"{listed / 'train/cat/a.png'} 0\ntrain/dog/b.png 1\n")
    link = tmp_path_factory.mktemp("links") / "data"
    link.symlink_to(listed)
    for root in (listed, link):
        data = module(root)
        data.setup("fit")
        assert data.num_classes == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("file,label", r"train\.txt: line 1: there is no image 'file,label'.*header"),
        ("train\\cat\\a.png 0", r"train\.txt: line 1: there is no image .*write / between folders"),
        ("words.md 0", r"train\.txt: line 1: .*words\.md' is no image"),
        ("train/cat/none.png 0", r"train\.txt: line 1: there is no image 'train/cat/none.png 0'"),
    ],
)
def test_lines_that_cannot_be_used_are_named(listed: Path, line: str, message: str) -> None:
    (listed / "words.md").write_text("no image")
    (listed / "train.txt").write_text(f"{line}\ntrain/dog/b.png 1\n")
    with pytest.raises(DataError, match=message):
        module(listed).setup("fit")


def test_label_maps_outside_the_root_are_refused(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "voc" / "JPEGImages" / "a.jpg")
    save(tmp_path / "out.png")
    (tmp_path / "voc" / "SegmentationClass").mkdir()
    lists = tmp_path / "voc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("JPEGImages/a.jpg ../out.png\n")
    with pytest.raises(DataError, match=r"train\.txt: line 1: '\.\./out\.png' leaves the root"):
        CityscapesDataModule(tmp_path / "voc", layout="voc", num_workers=0).setup("fit")


def test_folders_of_other_programs_and_names_that_look_alike(listed: Path, save: Any) -> None:
    for name in ("CVS", "found.000", "_vti_cnf", ".svn", "RCS"):
        save(listed / "train" / name / "x.png")
    data = module(listed, split_file=None)
    with pytest.warns(UserWarning, match=r"system folders between the data \(CVS, RCS, _vti_cnf and 1 more\)"):
        data.setup("fit")
    assert data.class_names == ["cat", "dog"]


@pytest.mark.parametrize("name", ["cat ", "Cat", "\uff43at", "cat\u200b", "CAT"])
def test_names_that_look_alike(listed: Path, save: Any, name: str) -> None:
    save(listed / "train" / name / "x.png")
    with pytest.warns(UserWarning, match="differ in case, spaces or Unicode form only"):
        module(listed, split_file=None).setup("fit")
