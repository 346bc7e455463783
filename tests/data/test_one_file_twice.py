"""If these fail, a link makes an image count in both splits or in two classes, and nobody is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyvision.data import CityscapesDataModule, COCODataModule, DataError, ImageFolderDataModule
from dyvision.data.check import check
from dyvision.data.same_files import file_codes, shared_images


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(root, **{"batch_size": 2, "num_workers": 0, "image_size": 8, **options})


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_validation_images_that_are_links_to_training_images(tmp_path: Path, save: Any, link: Any) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        save(tmp_path / "train" / name / "0.png")
        link(tmp_path / "train" / name / "0.png", tmp_path / "val" / name / "other.png")
    with pytest.raises(DataError, match=r"2 of the 2 images of val_split='val' are images of train_split='train'"):
        module(tmp_path).setup("fit")
    found = [finding for finding in check(module(tmp_path)).findings.all if finding.outcome == "refused"]
    assert any("2 images of val_split='val' are images of" in finding.what for finding in found)


def test_splits_that_link_to_one_store(tmp_path: Path, save: Any) -> None:
    """As caches of Hugging Face, DVC and git-annex do."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for k in range(2):
                shared = split == "val" and k == 0 and name == "cat"
                target = tmp_path / "store" / f"{'train' if shared else split}{name}{k}.png"
                save(target)
                path = tmp_path / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(target)
    with pytest.raises(DataError, match=r"1 of the 4 images of val_split='val'"):
        module(tmp_path).setup("fit")


def test_links_in_the_other_tasks(tmp_path: Path, cityscapes: Path, write_coco: Any, coco_json: dict[str, Any]) -> None:
    train = sorted((cityscapes / "leftImg8bit" / "train").glob("*/*.png"))
    val = sorted((cityscapes / "leftImg8bit" / "val").glob("*/*.png"))[0]
    val.unlink()
    val.symlink_to(train[0])
    with pytest.raises(DataError, match="are images of train_split"):
        CityscapesDataModule(cityscapes, num_workers=0, crop_size=(16, 16)).setup("fit")
    root = write_coco(coco_json)
    (root / "valid").mkdir()
    for image in (root / "train2017").iterdir():
        (root / "valid" / image.name).symlink_to(image)
    annotations = root / "annotations"
    (annotations / "instances_valid.json").write_bytes((annotations / "instances_train2017.json").read_bytes())
    with pytest.raises(DataError, match="are images of train_split"):
        COCODataModule(root, num_workers=0, val_split="valid").setup("fit")


def test_a_part_for_validation_takes_its_links_along(tmp_path: Path, save: Any) -> None:
    for name in ("cat", "dog"):
        for k in range(5):
            save(tmp_path / "train" / name / f"{k}.png")
            (tmp_path / "train" / name / f"link{k}.png").symlink_to(tmp_path / "train" / name / f"{k}.png")
    data = module(tmp_path, val_fraction=0.3)
    data.setup("fit")
    assert shared_images(data.datasets["train"].paths(), data.datasets["val"].paths()) == []
    assert len(data.datasets["train"]) >= 4


def test_codes_of_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    os.link(tmp_path / "a", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("hard")
    (tmp_path / "folder").symlink_to(tmp_path)
    names = ["a", "hard", "soft", "folder/a", "folder/soft", "b", "gone", "gone", "lost"]
    codes = file_codes(str(tmp_path / name) for name in names).tolist()
    assert len(set(codes[:5])) == 1
    assert len(set(codes)) == 4
    assert codes[6] == codes[7]
    assert file_codes([]).shape == (0,)


def test_a_class_that_is_a_link_to_another(tmp_path: Path, save: Any) -> None:
    for split in ("train", "val"):
        for k, name in enumerate(("cat", "dog")):
            save(tmp_path / split / name / "0.png", np.full((8, 8, 3), k + 9 * (split == "val"), np.uint8))
    (tmp_path / "train" / "kitty").symlink_to(tmp_path / "train" / "cat")
    with pytest.warns(UserWarning, match=r"a picture is of two classes, by a link .*kitty.* is 'cat' and 'kitty'"):
        module(tmp_path).setup("fit")
    (tmp_path / "train" / "kitty").unlink()
    (tmp_path / "train" / "cat" / "d").symlink_to(tmp_path / "train" / "dog")
    with pytest.warns(UserWarning, match=r"a picture is of two classes, by a link"):
        module(tmp_path).setup("fit")


def test_a_listed_picture_with_two_classes(tmp_path: Path, save: Any) -> None:
    for name in ("x", "y", "v"):
        save(tmp_path / f"{name}.png")
    (tmp_path / "train.txt").write_text("x.png 0\nx.png 1\ny.png 1\n")
    (tmp_path / "val.txt").write_text("v.png 0\n")
    with pytest.raises(DataError, match=r"train\.txt: .*x\.png is '0' and '1'"):
        module(tmp_path, split_file="{split}.txt").setup("fit")
