"""If these fail, a model is validated on what it was trained on, or the same checkpoint on other images than before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyvision.data import CityscapesDataModule, COCODataModule, DataError, ImageFolderDataModule
from dyvision.data.splits import choose_validation


def test_shares_of_classes_and_dependence_on_names_only() -> None:
    strata = [0] * 100 + [1] * 10 + [2] * 5 + [3]
    names = [f"{k}.jpg" for k in range(len(strata))]
    chosen = choose_validation(names, 0.2, 0, strata)
    assert Counter(strata[k] for k in chosen) == {0: 20, 1: 2, 2: 1}
    assert chosen == choose_validation(names, 0.2, 0, strata)
    assert chosen != choose_validation(names, 0.2, 1, strata)
    backwards = choose_validation(names[::-1], 0.2, 0, strata[::-1])
    assert {names[::-1][k] for k in backwards} == {names[k] for k in chosen}


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("sizes", [[2], [2, 2, 2], [1, 1, 1], [1, 5], [3, 1, 1]])
def test_training_keeps_every_class(fraction: float, sizes: list[int]) -> None:
    strata = [k for k, size in enumerate(sizes) for _ in range(size)]
    chosen = choose_validation([str(k) for k in range(len(strata))], fraction, 0, strata)
    assert 1 <= len(chosen) < len(strata)
    if max(sizes) > 1:
        assert {strata[k] for k in range(len(strata)) if k not in chosen} == set(strata)
    with pytest.raises(ValueError, match="1 samples cannot be divided"):
        choose_validation(["a"], fraction)


def test_a_part_of_the_training_images_validates(tmp_path: Path, save: Any) -> None:
    for name, count in (("cat", 10), ("dog", 20)):
        for k in range(count):
            save(tmp_path / name / f"{k}.png", np.full((8, 8, 3), k, np.uint8))
    options: dict[str, Any] = {"num_workers": 0, "image_size": 8, "train_split": ".", "val_split": "."}
    with pytest.raises(DataError, match=r"30 of the 30 images of val_split='.' .* set val_fraction"):
        ImageFolderDataModule(tmp_path, **options).setup("fit")
    data = ImageFolderDataModule(tmp_path, val_fraction=0.2, seed=3, **options)
    data.setup("fit")
    train, val = data.datasets["train"], data.datasets["val"]
    assert Counter(train.strata() or []) == {0: 8, 1: 16}
    assert Counter(val.strata() or []) == {0: 2, 1: 4}
    assert not set(train.paths()) & set(val.paths())
    assert data.hparams["val_fraction"] == 0.2
    for stage, name in (("validate", "val"), ("test", "test"), ("predict", "predict")):
        again = ImageFolderDataModule(**{**data.hparams, "seed": 7})
        again.setup(stage)
        assert again.datasets[name].paths() == val.paths()


def test_folders_inside_each_other_are_noticed(cityscapes: Path) -> None:
    options: dict[str, Any] = {"num_workers": 0, "crop_size": (16, 16)}
    with pytest.raises(DataError, match=r"1 of the 1 images of val_split='val' are images of train_split='.'"):
        CityscapesDataModule(cityscapes, train_split=".", **options).setup("fit")
    data = CityscapesDataModule(cityscapes, train_split=".", val_fraction=0.4, **options)
    data.setup("fit")
    assert (len(data.datasets["train"]), len(data.datasets["val"])) == (2, 1)


def test_lists_of_names(tmp_path: Path, save: Any) -> None:
    for k in range(4):
        save(tmp_path / "all" / f"{k}.jpg")
        save(tmp_path / "sorted" / "cat" / f"{k} x.jpg")
    (tmp_path / "train.txt").write_text("all/0.jpg cat\nall/1.jpg\tbig dog\n# comment\n\n")
    (tmp_path / "val.txt").write_text("all/2.jpg,big dog\n")
    data = ImageFolderDataModule(tmp_path, num_workers=0, image_size=8, split_file="{split}.txt")
    data.setup("fit")
    assert data.class_names == ["big dog", "cat"]
    assert data.datasets["train"].strata() == [1, 0]
    assert data.datasets["val"][0]["label"] == 0
    (tmp_path / "train.txt").write_text("all/0.jpg 2\nall/1.jpg 0\n")
    (tmp_path / "val.txt").write_text("all/2.jpg 1\nsorted/cat/1 x.jpg 2\n")
    data = ImageFolderDataModule(tmp_path, num_workers=0, image_size=8, split_file="{split}.txt")
    data.setup("fit")
    assert (data.num_classes, data.datasets["val"].strata()) == (3, [1, 2])
    (tmp_path / "val.txt").write_text("all/2.jpg 7\n")
    with pytest.raises(DataError, match=r"val.txt: .*class '7'"):
        ImageFolderDataModule(tmp_path, num_workers=0, split_file="{split}.txt").setup("fit")
    (tmp_path / "val.txt").write_text("sorted/cat/9.jpg 1\n")
    with pytest.raises(DataError, match=r"no image 'sorted/cat/9.jpg 1'"):
        ImageFolderDataModule(tmp_path, num_workers=0, split_file="{split}.txt").setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0}, "val_fraction=0"),
        ({"val_fraction": 1.5}, "val_fraction=1.5"),
        ({"in_chans": 4}, "in_chans=4"),
    ],
)
@pytest.mark.parametrize("kind", [ImageFolderDataModule, CityscapesDataModule])
def test_wrong_arguments(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind("nowhere", **options)


def test_the_same_split_twice_is_refused_for_detection(write_coco: Any, coco_json: dict[str, Any]) -> None:
    data = COCODataModule(write_coco(coco_json), num_workers=0, val_split="train2017")
    with pytest.raises(DataError, match="would say nothing about new images"):
        data.setup("fit")
