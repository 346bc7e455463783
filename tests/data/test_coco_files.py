"""If these fail, images that are there are not found, or files outside the data set are read."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from dyvision.data import COCODataModule, DataError

Write = Callable[..., Path]


def first_image(root: Path, **options: Any) -> str:
    path = COCODataModule(root, num_workers=0, **options).build_dataset("train2017", train=True).paths()[0]
    return str(Path(path).relative_to(root))


@pytest.mark.parametrize(
    ("name", "on_disk"),
    [
        ("./10.png", "10.png"),
        ("sub\\a.png", "sub/a.png"),
        (".\\sub\\a.png", "sub/a.png"),
        ("train2017/10.png", "10.png"),
        ("10.PNG", "10.png"),
        ("a%20b.png", "a b.png"),
        ("100%25.png", "100%.png"),
        (unicodedata.normalize("NFD", "\u00e9t\u00e9.png"), unicodedata.normalize("NFC", "\u00e9t\u00e9.png")),
        (unicodedata.normalize("NFC", "\u00e9t\u00e9.png"), unicodedata.normalize("NFD", "\u00e9t\u00e9.png")),
        (quote("\u00e9t\u00e9.png"), unicodedata.normalize("NFD", "\u00e9t\u00e9.png")),
        ("a..b.png", "a..b.png"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*spelt otherwise:UserWarning")
def test_other_spellings_of_a_name(
    write_coco: Write, coco_json: dict[str, Any], save: Any, name: str, on_disk: str
) -> None:
    coco_json["images"][0]["file_name"] = name
    root = write_coco(coco_json)
    save(root / "train2017" / on_disk)
    assert first_image(root) == f"train2017/{on_disk}"


def test_a_name_that_fits_two_files_is_refused(write_coco: Write, coco_json: dict[str, Any], save: Any) -> None:
    coco_json["images"][0]["file_name"] = "AB.png"
    root = write_coco(coco_json)
    save(root / "train2017" / "ab.png")
    assert first_image(root) == "train2017/ab.png"
    save(root / "train2017" / "aB.png")
    with pytest.raises(DataError, match=r"image 10 .*'AB.png'.*fits several files"):
        first_image(root)


@pytest.mark.parametrize(
    "name", ["%2e%2e/val2017/10.png", "..%5c10.png", "/10.png", "sub/../../val2017/10.png", "", "\0"]
)
def test_names_that_leave_the_folder_stay_refused(write_coco: Write, coco_json: dict[str, Any], name: str) -> None:
    coco_json["images"][0]["file_name"] = name
    with pytest.raises(DataError, match="image 10"):
        first_image(write_coco(coco_json))


def test_a_named_pipe_is_no_image(write_coco: Write, coco_json: dict[str, Any]) -> None:
    root = write_coco(coco_json)
    (root / "train2017" / "10.png").unlink()
    os.mkfifo(root / "train2017" / "10.png")
    with pytest.raises(DataError, match="1 of 3 images are not in"):
        first_image(root)


def test_one_file_under_two_ids_is_told(write_coco: Write, coco_json: dict[str, Any]) -> None:
    coco_json["images"].append({"id": 99, "file_name": "10.png", "height": 24, "width": 32})
    with pytest.warns(UserWarning, match="listed more than once in 'images' \\('10.png'\\)"):
        first_image(write_coco(coco_json))


def test_layouts(tmp_path: Path, coco_json: dict[str, Any], save: Any) -> None:
    for split in ("train", "valid"):
        for number in (10, 20, 30):
            save(tmp_path / "r" / split / f"{number}.png")
        (tmp_path / "r" / split / "_annotations.coco.json").write_text(json.dumps(coco_json))
    roboflow = COCODataModule(tmp_path / "r", num_workers=0, layout="roboflow")
    roboflow.setup("fit")
    assert [len(roboflow.datasets[name]) for name in ("train", "val")] == [2, 3]
    # LVIS: no file_name, and validation has images of both folders
    (tmp_path / "l" / "annotations").mkdir(parents=True)
    for number, image in enumerate(coco_json["images"]):
        folder = "train2017" if number else "val2017"
        save(tmp_path / "l" / folder / image["file_name"])
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{image.pop('file_name')}"
    (tmp_path / "l" / "annotations" / "lvis_v1_val.json").write_text(json.dumps(coco_json))
    lvis = COCODataModule(tmp_path / "l", num_workers=0, layout="lvis")
    lvis.setup("validate")
    paths = [os.path.relpath(path, tmp_path / "l") for path in lvis.datasets["val"].paths()]
    assert paths == ["val2017/10.png", "train2017/20.png", "train2017/30.png"]
    with pytest.raises(ValueError, match="layout='yolo': expected one of 'coco', 'roboflow', 'lvis'"):
        COCODataModule(tmp_path, layout="yolo")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"expected <root>/train/\*.jpg and <root>/train/_annotations.coco.json"):
        COCODataModule(tmp_path / "none", layout="roboflow").setup("fit")


def test_image_info_files_are_enough_to_predict(write_coco: Write, coco_json: dict[str, Any]) -> None:
    del coco_json["annotations"]
    data = COCODataModule(write_coco(coco_json), num_workers=0)
    dataset = data.build_predict_dataset()
    assert [dataset[k]["image_id"] for k in range(3)] == [10, 20, 30]
    assert data.class_names == ["ant", "zebra"]
    with pytest.raises(DataError, match="no list 'annotations'"):
        data.setup("validate")


def test_exif_orientation(write_coco: Write, coco_json: dict[str, Any]) -> None:
    root = write_coco(coco_json)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:, :16] = 200
    Image.fromarray(pixels).save(root / "val2017" / "10.png", exif=exif)
    with pytest.warns(UserWarning, match="EXIF orientation is 6.*exif_orientation to 'apply'"):
        COCODataModule(root, num_workers=0).build_dataset("val2017", train=False)[0]
    coco_json["images"][0].update(height=32, width=24)
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(coco_json))
    dataset = COCODataModule(root, num_workers=0).build_dataset("val2017", train=False)
    with (
        pytest.warns(UserWarning, match="EXIF"),
        pytest.raises(DataError, match=r"24x32.*says 32x24.*upright picture: set exif_orientation to 'apply'"),
    ):
        dataset[0]
    upright = COCODataModule(root, num_workers=0, exif_orientation="apply").build_dataset("val2017", train=False)
    image = upright[0]["image"]
    assert image.shape == (3, 32, 24)
    assert image[0, :16].mean() > 0.7 and image[0, 16:].mean() < 0.1
    for record in coco_json["images"]:
        del record["height"], record["width"]
    path.write_text(json.dumps(coco_json))
    upright = COCODataModule(root, num_workers=0, exif_orientation="apply").build_dataset("val2017", train=False)
    assert upright[0]["target"]["original_size"] == (32, 24)


@pytest.mark.parametrize("name", ["10.heif-x", "10.jxl", "10"])
def test_a_format_that_is_not_read_is_refused_before_training(
    write_coco: Write, coco_json: dict[str, Any], name: str
) -> None:
    coco_json["images"][0]["file_name"] = name
    root = write_coco(coco_json)
    (root / "train2017" / name).write_bytes(b"\0\0\0\x1cftypheix" + bytes(100))
    expected = rf"instances_train2017.json: 1 of 3 images in .* cannot be read here: {name}; convert them"
    with pytest.raises(DataError, match=expected):
        COCODataModule(root, num_workers=0).setup("fit")


@pytest.mark.parametrize("name", ["10.picture", "10"])
def test_a_picture_under_another_extension_is_read(write_coco: Write, coco_json: dict[str, Any], name: str) -> None:
    coco_json["images"][0]["file_name"] = name
    root = write_coco(coco_json)
    (root / "train2017" / "10.png").rename(root / "train2017" / name)
    (root / "val2017" / "10.png").rename(root / "val2017" / name)
    data = COCODataModule(root, num_workers=0)
    data.setup("fit")
    assert data.datasets["train"][0]["image"].shape == (3, 24, 32)


def test_predict_tells_what_it_leaves_out(write_coco: Write, coco_json: dict[str, Any]) -> None:
    root = write_coco(coco_json)
    (root / "val2017" / "11.jxl").write_bytes(b"picture")
    (root / "val2017" / "12.png").symlink_to("nowhere.png")  # listed in failed.csv
    data = COCODataModule(root, num_workers=0, predict_root=root / "val2017")
    with pytest.warns(UserWarning, match=r"pictures in a format that cannot be read here .*11\.jxl.*left out"):
        data.setup("predict")
    assert [Path(path).name for path in data.datasets["predict"]._paths] == ["10.png", "12.png", "20.png", "30.png"]
