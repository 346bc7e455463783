"""If these fail, a contact sheet shows something else than what training gets, or cannot be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyvision.data import (
    CityscapesDataModule,
    COCODataModule,
    DataError,
    ImageFolderDataModule,
    contact_sheet,
    detect_format,
    show,
)
from dyvision.visualize import palette


@pytest.mark.parametrize(
    ("name", "kind"), [("imagenet", "imagefolder"), ("cityscapes", "cityscapes"), ("coco", "coco")]
)
@pytest.mark.parametrize("augment", [False, True])
def test_show_draws_a_sheet(sample_data: Path, tmp_path: Path, name: str, kind: str, augment: bool) -> None:
    assert detect_format(sample_data / name) == kind
    output = show(sample_data / name, output=tmp_path / "new" / "sheet.png", count=5, columns=3, augment=augment)
    with Image.open(output) as sheet:
        assert sheet.width > 3 * 200
        assert sheet.height > 2 * 150
    again = show(sample_data / name, format=kind, output=tmp_path / "again.png", count=5, columns=3, augment=augment)
    assert output.read_bytes() == again.read_bytes()


def test_show_takes_other_splits_and_extensions(sample_data: Path, tmp_path: Path) -> None:
    for name, split in (("imagenet", "val"), ("cityscapes", "val"), ("coco", "val"), ("coco", "val2017")):
        assert show(sample_data / name, split=split, output=tmp_path / "sheet", count=2).name == "sheet.png"
    assert show(sample_data / "imagenet" / "val", output=tmp_path / "x.jpg", count=2).suffix == ".jpg"
    with pytest.raises(DataError, match="there is no split 'test'"):
        show(sample_data / "coco", split="test", output=tmp_path / "x.png")


def test_show_without_masks_in_the_file(write_coco: Any, coco_json: dict[str, Any], tmp_path: Path) -> None:
    for annotation in coco_json["annotations"]:
        annotation["segmentation"] = []
    root = write_coco(coco_json)
    assert show(root, output=tmp_path / "x.png").is_file()


def test_wrong_formats_and_folders(tmp_path: Path, sample_data: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown format 'cityscape'.*'cityscapes'"):
        show(sample_data / "cityscapes", format="cityscape")
    with pytest.raises(DataError, match=r"it is empty; expected one of: <split>/<class>"):
        show(tmp_path)
    with pytest.raises(DataError, match="it does not exist"):
        show(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected leftImg8bit"):
        show(sample_data / "imagenet", format="cityscapes", output=tmp_path / "x.png")


def test_a_picture_of_classification(folder: Path) -> None:
    data = ImageFolderDataModule(folder, num_workers=0, image_size=16)
    data.setup("fit")
    dataset = data.datasets["val"]
    dataset.class_colors = [[255, 0, 0], [0, 255, 0]]
    picture = np.array(dataset.plot(dataset[1]))
    assert (picture == [0, 255, 0]).all(axis=2).any()
    assert not (picture == [255, 0, 0]).all(axis=2).any()
    assert (picture[-20:] == 0).all()  # the image itself is black: the normalisation was undone


def test_a_picture_of_segmentation(cityscapes: Path) -> None:
    data = CityscapesDataModule(cityscapes, num_workers=0)
    data.setup("validate")
    dataset = data.datasets["val"]
    picture = np.array(dataset.plot(dataset[0]))
    stored = np.arange(32) * 8.0
    row = picture[picture.shape[0] // 2]
    left = row[picture.shape[1] // 64 + 3 * picture.shape[1] // 32]
    assert left == pytest.approx(0.45 * stored[3] + 0.55 * np.array([128, 64, 128]), abs=6)


def test_a_picture_of_detection(write_coco: Any, coco_json: dict[str, Any]) -> None:
    data = COCODataModule(write_coco(coco_json), num_workers=0)
    data.setup("validate")
    dataset = data.datasets["val"]
    dataset.class_colors = [[255, 0, 0], [0, 255, 0]]
    picture = np.array(dataset.plot(dataset[0]))
    scale = picture.shape[1] / 32
    assert picture[round(9 * scale), round(2 * scale)].tolist() == [0, 255, 0]
    assert picture[round(8 * scale), round(16 * scale)].tolist() == [255, 0, 0]


def test_a_sheet_of_a_module(sample_data: Path, tmp_path: Path) -> None:
    data = CityscapesDataModule(sample_data / "cityscapes", num_workers=0, crop_size=(32, 32))
    for split in ("train", "val", "test", "predict"):
        assert contact_sheet(data, tmp_path / f"{split}.png", split=split, count=99).is_file()
    with pytest.raises(ValueError, match=r"unknown split 'vall'.*'val'"):
        contact_sheet(data, tmp_path / "x.png", split="vall")
    with pytest.raises(ValueError, match="count=0"):
        contact_sheet(data, tmp_path / "x.png", count=0)


def test_palettes_are_distinct_and_stable() -> None:
    colors = palette(100)
    assert len({tuple(color) for color in colors}) == 100
    assert colors[:10] == palette(10)
    assert all(0 <= value <= 255 for color in colors for value in color)


def test_show_finds_roboflows_annotations(write_coco: Any, coco_json: dict[str, Any], tmp_path: Path) -> None:
    root = write_coco(coco_json)
    for split, name in (("train2017", "train"), ("val2017", "valid")):
        (root / split).rename(root / name)
        (root / "annotations" / f"instances_{split}.json").rename(root / name / "_annotations.coco.json")
    (root / "annotations").rmdir()
    assert detect_format(root) == "coco"
    assert show(root, output=tmp_path / "sheet.png", split="valid").is_file()
