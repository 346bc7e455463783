"""If these fail, segmentation trains on wrong classes, or pixels without a label count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyvision.data import CITYSCAPES_LABELS, CityscapesDataModule, DataError, LabelTable


def module(root: Path, **options: Any) -> CityscapesDataModule:
    return CityscapesDataModule(root, **{"batch_size": 1, "num_workers": 0, "crop_size": (16, 16), **options})


def test_the_official_table() -> None:
    # cityscapesscripts/helpers/labels.py: the ids evaluated, in the order of their train ids
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [
        label.id for label in sorted(CITYSCAPES_LABELS, key=lambda row: row.train_id) if label.train_id != 255
    ] == ids
    assert [label.id for label in CITYSCAPES_LABELS] == [*range(34), -1]
    data = module(Path("nowhere"))
    assert data.num_classes == 19
    assert data.class_ids == ids
    assert data.class_names[:3] == ["road", "sidewalk", "building"]
    assert data.class_colors[0] == [128, 64, 128]
    assert data.class_colors[18] == [119, 11, 32]
    table = LabelTable()
    mapped = table.to_train_ids(np.array([[*range(34), 255]]))
    expected = [ids.index(k) if k in ids else 255 for k in range(34)]
    assert mapped.tolist() == [[*expected, 255]]


def test_label_ids_become_train_ids(cityscapes: Path) -> None:
    data = module(cityscapes)
    data.setup("fit")
    sample = data.datasets["val"][0]
    assert sample["mask"].dtype == torch.int64
    assert sample["mask"][0].unique().tolist() == [255]
    assert sample["mask"][1:, :16].unique().tolist() == [0]
    assert sample["mask"][1:, 16:].unique().tolist() == [10]
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (1, 3, 16, 16)
    assert batch["mask"].shape == (1, 16, 16)
    assert batch["original_size"] == [(24, 32)]
    assert set(batch) == {"image", "mask", "path", "valid", "original_size", "size"}


def test_a_small_image_is_padded_with_ignored_pixels(cityscapes: Path) -> None:
    data = module(cityscapes, crop_size=(64, 64), scale_range=(1.0, 1.0))
    data.setup("fit")
    sample = data.datasets["train"][0]
    counts = dict(zip(*(values.tolist() for values in sample["mask"].unique(return_counts=True)), strict=True))
    assert counts == {0: 23 * 16, 10: 23 * 16, 255: 64 * 64 - 2 * 23 * 16}


def test_a_subset_of_the_names_in_its_own_order(cityscapes: Path) -> None:
    data = module(cityscapes, classes=["sky", "car"])
    data.setup("validate")
    assert (data.num_classes, data.class_ids, data.class_names) == (2, [23, 26], ["sky", "car"])
    mask = data.datasets["val"][0]["mask"]
    assert mask[1:, 16:].unique().tolist() == [0]
    assert mask[:, :16].unique().tolist() == [255]


def test_another_table(cityscapes: Path) -> None:
    data = module(cityscapes, label_table={0: "void", 23: "above", 7: "below", 9: "below"})
    data.setup("validate")
    assert data.class_names == ["void", "above", "below"]
    assert data.class_ids == [0, 23, 7]
    assert data.datasets["val"][0]["mask"][:, 0].tolist() == [0] + [2] * 23
    chosen = module(cityscapes, label_table={23: "above", 7: "below"}, classes=["below"], ignore_ids=[0])
    chosen.setup("validate")
    assert sorted(chosen.datasets["val"][0]["mask"].unique().tolist()) == [0, 255]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["rode"]}, "there is no label 'rode'.*'road'"),
        ({"classes": ["road", "road"]}, "road given twice"),
        ({"classes": []}, "expected 1 to 254 names, got 0"),
        ({"label_table": {-1: "a"}}, "label ids -1: expected 0 to 65535"),
        ({"label_table": {1: "a"}, "classes": ["road"]}, "no label 'road'"),
        ({"crop_size": (0, 4)}, "crop_size"),
        ({"scale_range": (2.0, 0.5)}, "scale_range"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(Path("nowhere"), **options)


def test_ids_outside_the_table(cityscapes: Path, save: Any) -> None:
    path = cityscapes / "gtFine" / "val" / "town" / "c_gtFine_labelIds.png"
    save(path, np.full((24, 32), 77, np.uint8))
    data = module(cityscapes)
    data.setup("validate")
    with pytest.raises(DataError, match=r"c_gtFine_labelIds.png: label ids outside the table: 77; add them"):
        data.datasets["val"][0]


def test_16_bit_and_palette_labels(cityscapes: Path, save: Any) -> None:
    from PIL import Image

    path = cityscapes / "gtFine" / "val" / "town" / "c_gtFine_labelIds.png"
    save(path, np.full((24, 32), 300, np.uint16))
    data = module(cityscapes, label_table={300: "far"})
    data.setup("validate")
    assert data.datasets["val"][0]["mask"].unique().tolist() == [0]
    picture = Image.fromarray(np.full((24, 32), 7, np.uint8), mode="P")
    picture.putpalette([10, 20, 30] * 256)
    picture.save(path)
    plain = module(cityscapes)
    plain.setup("validate")
    assert plain.datasets["val"][0]["mask"].unique().tolist() == [0]


def test_sizes_that_differ(cityscapes: Path, save: Any) -> None:
    save(cityscapes / "gtFine" / "val" / "town" / "c_gtFine_labelIds.png", np.full((12, 32), 7, np.uint8))
    data = module(cityscapes)
    data.setup("validate")
    with pytest.raises(DataError, match=r"c_gtFine_labelIds.png: the label map is 12x32 .* is 24x32"):
        data.datasets["val"][0]


def test_colour_pictures_are_no_labels(cityscapes: Path, save: Any) -> None:
    colors = np.full((24, 32, 3), (128, 64, 128), np.uint8)
    save(cityscapes / "gtFine" / "val" / "town" / "c_gtFine_labelIds.png", colors)
    data = module(cityscapes)
    data.setup("validate")
    with pytest.raises(DataError, match="has 3 channels; use the labelIds files"):
        data.datasets["val"][0]


def test_an_image_without_labels(cityscapes: Path, save: Any) -> None:
    save(cityscapes / "leftImg8bit" / "val" / "town" / "d_leftImg8bit.png")
    with pytest.raises(
        DataError, match=r"1 of 2 images of the split 'val' .*d_leftImg8bit.png needs .*d_gtFine_labelIds.png"
    ):
        module(cityscapes).setup("validate")


def test_a_test_split_without_labels(cityscapes: Path, save: Any) -> None:
    save(cityscapes / "leftImg8bit" / "test" / "town" / "d_leftImg8bit.jpg")
    data = module(cityscapes, test_split="test")
    with pytest.warns(UserWarning, match="1 of 1 images of the split 'test' have no label map"):
        data.setup("test")
    assert data.datasets["test"][0]["mask"].unique().tolist() == [255]


def test_without_a_test_split_the_validation_split_is_tested(cityscapes: Path) -> None:
    data = module(cityscapes)
    data.setup("test")
    assert data.datasets["test"][0]["path"].endswith("c_leftImg8bit.png")


def test_names_and_folders_are_arguments(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "img" / "fit" / "1_rgb.webp")
    save(tmp_path / "img" / "fit" / "1_depth.png")
    save(tmp_path / "lab" / "fit" / "1_ids.png", np.full((24, 32), 7, np.uint8))
    options = {
        "train_split": "fit", "image_dir": "img", "label_dir": "lab", "label_suffix": "_ids.png"
    }  # fmt: skip
    for suffix in ("_rgb", "_rgb.webp"):
        data = module(tmp_path, image_suffix=suffix, **options)
        assert len(data.build_dataset("fit", train=True)) == 1
    with pytest.raises(
        DataError, match=r"image_suffix='_leftImg8bit' \(there are files like 1_depth.png, 1_rgb.webp\)"
    ):
        module(tmp_path, **options).setup("fit")


def test_without_suffixes(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "leftImg8bit" / "val" / "1.v2.png")
    save(tmp_path / "gtFine" / "val" / "1.v2.png", np.full((24, 32), 7, np.uint8))
    data = module(tmp_path, image_suffix="", label_suffix="")
    data.setup("validate")
    assert data.datasets["val"][0]["mask"].unique().tolist() == [0]


def test_a_missing_root_or_split(tmp_path: Path, cityscapes: Path) -> None:
    with pytest.raises(DataError, match=r"expected leftImg8bit/<split>/<city>/.*gtFine/"):
        module(tmp_path / "nowhere").setup("fit")
    with pytest.raises(DataError, match=r"no folder leftImg8bit/training; .*'train'"):
        module(cityscapes, train_split="training").setup("fit")
    with pytest.raises(DataError, match=r"no folder images/train; .*found: gtFine/, leftImg8bit/"):
        module(cityscapes, image_dir="images").setup("fit")


def test_evaluation_pads_a_batch_of_different_sizes(cityscapes: Path, save: Any) -> None:
    save(cityscapes / "leftImg8bit" / "val" / "town" / "d_leftImg8bit.jpg", np.full((10, 40, 3), 255, np.uint8))
    save(cityscapes / "gtFine" / "val" / "town" / "d_gtFine_labelIds.png", np.full((10, 40), 7, np.uint8))
    data = module(cityscapes, eval_batch_size=2)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (2, 3, 24, 40)
    assert batch["size"] == batch["original_size"] == [(24, 32), (10, 40)]
    assert (batch["mask"][1, 10:] == 255).all()
    assert (batch["mask"][1, :10] == 0).all()
    assert (batch["image"][1, :, 10:] == 0).all()


def test_resizing_comes_first_and_the_original_size_is_kept(cityscapes: Path) -> None:
    data = module(cityscapes, image_size=(12, 16))
    data.setup("validate")
    sample = data.datasets["val"][0]
    assert sample["image"].shape == (3, 12, 16)
    assert sample["original_size"] == (24, 32)
    assert set(sample["mask"].unique().tolist()) <= {0, 10, 255}


def test_prediction(cityscapes: Path) -> None:
    data = module(cityscapes)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert "mask" not in batch
    assert batch["original_size"] == batch["size"] == [(24, 32)]
