"""If these fail, segmentation trains on exchanged or ignored classes, or a layout of another data set is not read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyvision.data import CityscapesDataModule, DataError, layouts
from dyvision.data.cityscapes_labels import VOC_COLORS, LabelTable
from dyvision.data.files import ImageReader
from dyvision.data.layouts import detect_layout


def module(root: Path, **options: Any) -> CityscapesDataModule:
    return CityscapesDataModule(root, **{"batch_size": 1, "num_workers": 0, "crop_size": (16, 16), **options})


def write(root: Path, save: Any, values: tuple[int, ...], suffix: str = "_gtFine_labelIds") -> Path:
    for split in ("train", "val"):
        for k in range(2):
            labels = np.resize(np.array(values, np.uint8), (24, 32))
            image = np.full((24, 32, 3), 10 * k + (split == "val"), np.uint8)
            save(root / "leftImg8bit" / split / f"{k}_leftImg8bit.png", image)
            save(root / "gtFine" / split / f"{k}{suffix}.png", labels)
    return root


@pytest.mark.parametrize("suffix", ["_gtFine_labelTrainIds", "_gtFine_labelTrainIds.png", "_trainIds"])
def test_train_ids_are_read_as_such(tmp_path: Path, save: Any, suffix: str) -> None:
    write(tmp_path, save, (*range(19), 255), suffix.removesuffix(".png"))
    data = module(tmp_path, label_suffix=suffix)
    data.setup("validate")
    assert data.class_ids == list(range(19))
    assert (data.class_names[0], data.class_names[13]) == ("road", "car")
    assert data.datasets["val"][0]["mask"].flatten()[:20].tolist() == [*range(19), 255]
    again = CityscapesDataModule(**data.hparams)
    assert again.class_ids == data.class_ids


def test_train_ids_under_another_name_are_told(tmp_path: Path, save: Any) -> None:
    with pytest.warns(UserWarning, match=r"only ids from 0 to 18 and 255 .*read as labelIds"):
        module(write(tmp_path / "a", save, (0, 1, 2, 8, 10, 13, 255))).setup("fit")
    for name, values in (("b", (7, 11)), ("c", (0, 1, 2, 3, 7, 8, 11, 23, 26)), ("d", (0, 7))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            module(write(tmp_path / name, save, values)).setup("fit")


@pytest.mark.parametrize("values", [(0, 255), (0,), (255,), (0, 1, 2)])
def test_nothing_to_learn_is_refused(tmp_path: Path, save: Any, values: tuple[int, ...]) -> None:
    ids = ", ".join(map(str, values))
    with pytest.raises(DataError, match=rf"0_gtFine_labelIds.png: every pixel .*ids {ids}, .*label_table"):
        module(write(tmp_path, save, values)).setup("fit")
    module(tmp_path, label_table=dict.fromkeys(values, "thing") | {9: "other"}, ignore_ids=[]).setup("validate")


def test_one_labelled_map_among_many_is_enough(tmp_path: Path, save: Any) -> None:
    for k in range(40):
        save(tmp_path / "leftImg8bit" / "train" / f"{k}_leftImg8bit.png", np.full((4, 4, 3), k, np.uint8))
        labels = np.full((4, 4), 7 if k == 17 else 0, np.uint8)
        save(tmp_path / "gtFine" / "train" / f"{k}_gtFine_labelIds.png", labels)
    save(tmp_path / "leftImg8bit" / "val" / "v_leftImg8bit.png", np.full((4, 4, 3), 99, np.uint8))
    save(tmp_path / "gtFine" / "val" / "v_gtFine_labelIds.png", np.full((4, 4), 7, np.uint8))
    module(tmp_path).setup("fit")


def test_colours_of_label_maps(tmp_path: Path, save: Any) -> None:
    colors = [*VOC_COLORS.values(), (224, 224, 192)]
    path = str(save(tmp_path / "a.png", np.array([colors], np.uint8)))
    assert LabelTable(label_colors="voc").read(path, ImageReader()).tolist() == [[*range(21), 255]]
    own = LabelTable(label_colors={"sky": [0, 0, 255], "road": [128, 64, 128]}, classes=["road"])
    assert (own.names, own.ids, own.colors) == (["road"], [1], [[128, 64, 128]])
    path = str(save(tmp_path / "b.png", np.array([[[0, 0, 255], [128, 64, 128]]], np.uint8)))
    assert own.read(path, ImageReader()).tolist() == [[255, 0]]
    palette = Image.fromarray(np.array([[1, 0]], np.uint8), mode="P")
    palette.putpalette([0, 0, 255, 128, 64, 128])
    palette.save(path)
    assert own.read(path, ImageReader()).tolist() == [[0, 255]]
    path = str(save(tmp_path / "c.png", np.array([[[1, 2, 3]]], np.uint8)))
    with pytest.raises(DataError, match=r"c.png: 1 pixels of colours outside label_colors: \[1, 2, 3\]"):
        own.read(path, ImageReader())
    for wrong in ("vocc", {"a": [1, 2]}, {"a": [0, 0, 300]}, {"a": [1, 1, 1], "b": [1, 1, 1]}):
        with pytest.raises(ValueError, match="label_colors"):
            LabelTable(label_colors=wrong)


def test_ids_that_files_of_other_tools_hold(tmp_path: Path, save: Any) -> None:
    reader = ImageReader()
    table = LabelTable(label_table={0: "background", 255: "thing"})
    bits = str(tmp_path / "a.png")
    Image.fromarray(np.array([[False, True]])).save(bits)
    assert table.read(bits, reader).tolist() == [[0, 1]]
    signed = str(save(tmp_path / "b.tif", np.array([[-1, 0]], np.int32)))
    with pytest.warns(UserWarning, match="label id -1; ignored"):
        assert table.read(signed, reader).tolist() == [[255, 0]]
    for value in (-2, 65536, 2**31 - 1, -(2**31)):
        path = str(save(tmp_path / "c.tif", np.array([[value]], np.int32)))
        with pytest.raises(DataError, match=rf"c.tif: label ids outside the table: {value};"):
            table.read(path, reader)
    blurred = np.zeros((16, 16), np.uint8)
    blurred[:, 5:] = 255
    path = str(save(tmp_path / "d.jpg", blurred, quality=50))
    with pytest.raises(DataError, match=r"d.jpg: label ids outside .*JPEG changes pixel values"):
        table.read(path, reader)


def test_turned_pictures_with_upright_labels(tmp_path: Path, save: Any) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    save(tmp_path / "images" / "val" / "a.jpg", exif=tags)
    save(tmp_path / "masks" / "val" / "a.png", np.zeros((32, 24), np.uint8))
    options: dict[str, Any] = {"layout": "folders", "label_table": {0: "a"}}
    data = module(tmp_path, **options)
    data.setup("validate")
    with pytest.raises(DataError, match=r"set exif_orientation to 'apply'"), pytest.warns(UserWarning):
        data.datasets["val"][0]
    data = module(tmp_path, exif_orientation="apply", **options)
    data.setup("validate")
    assert data.datasets["val"][0]["image"].shape == (3, 32, 24)


LAYOUTS = {
    "mapillary": ("{split}/images/0.jpg", "{split}/v1.2/labels/0.png", ("training", "validation")),
    "voc": ("JPEGImages/{split}.jpg", "SegmentationClass/{split}.png", ("train", "val")),
    "folders": ("images/{split}/0.jpg", "masks/{split}/0.png", ("train", "val")),
    "folders, splits first": ("{split}/images/0.jpg", "{split}/masks/0.png", ("train", "val")),
    "roboflow": ("{split}/0.jpg", "{split}/0_mask.png", ("train", "valid")),
}


def test_every_layout_is_tested() -> None:
    # Cityscapes' own has test_cityscapes.py
    assert {name.split(",")[0] for name in LAYOUTS} | {"cityscapes"} == set(layouts.LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path: Path, save: Any, name: str) -> None:
    image, label, splits = LAYOUTS[name]
    layout = name.partition(",")[0]
    for number, split in enumerate(splits):
        save(tmp_path / image.replace("{split}", split))
        save(tmp_path / label.replace("{split}", split), np.full((24, 32), number, np.uint8))
    options: dict[str, Any] = {"label_table": {0: "a", 1: "b"}}
    if layout == "voc":
        save(tmp_path / "JPEGImages" / "unlabelled.jpg")
        for split in splits:
            (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
            (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(f"{split}\n")
        options = {}
    if layout == "roboflow":
        for split in splits:
            (tmp_path / split / "_classes.csv").write_text("Pixel Value, Class\n0, a\n1, b\n")
        options = {}
    data = module(tmp_path, layout=layout, **options)
    data.setup("fit")
    assert data.class_names[:2] == (["background", "aeroplane"] if layout == "voc" else ["a", "b"])
    assert (len(data.datasets["train"]), len(data.datasets["val"])) == (1, 1)
    assert data.datasets["val"][0]["mask"].unique().tolist() == [1]
    data.setup("predict")
    assert len(data.datasets["predict"]) == 1
    assert CityscapesDataModule(**{**data.hparams, "root": tmp_path / "gone"}).class_names == data.class_names


def test_one_folder_of_images_and_one_of_masks(tmp_path: Path, save: Any) -> None:
    for k in range(5):
        save(tmp_path / "images" / f"{k}.jpg")
        save(tmp_path / "masks" / f"{k}.png", np.zeros((24, 32), np.uint8))
    options: dict[str, Any] = {"layout": "folders", "label_table": {0: "a"}}
    with pytest.raises(DataError, match="set val_fraction"):
        module(tmp_path, **options).setup("fit")
    data = module(tmp_path, val_fraction=0.2, **options)
    data.setup("fit")
    assert (len(data.datasets["train"]), len(data.datasets["val"])) == (4, 1)
    with pytest.raises(ValueError, match=r"layout='folders' does not say what the label ids mean; set label_table"):
        module(tmp_path, layout="folders")
    with pytest.raises(ValueError, match=r"unknown layout 'vok'. Did you mean 'voc'"):
        module(tmp_path, layout="vok")


def test_images_are_not_their_own_label_maps(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "val" / "images" / "0.jpg")
    options: dict[str, Any] = {"image_dir": ".", "label_dir": ".", "image_suffix": "", "label_suffix": ""}
    with pytest.raises(DataError, match=r"have no label map; .*'{split}' in it stands for the split"):
        module(tmp_path, val_split="val/images", label_table={0: "a"}, **options).setup("validate")


def test_evaluation_has_the_stored_label_map(cityscapes: Path) -> None:
    data = module(cityscapes, image_size=(12, 16), eval_batch_size=1)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (1, 3, 12, 16)
    assert batch["mask"].shape == (1, 24, 32)
    assert batch["mask_size"] == batch["original_size"] == [(24, 32)]
    assert batch["size"] == [(12, 16)]
    train = next(iter(data.train_dataloader()))
    assert train["mask"].shape[-2:] == train["image"].shape[-2:]
    crop = module(cityscapes, eval_transform=[{"CenterCrop": {"height": 8, "width": 8}}])
    crop.setup("validate")
    sample = crop.datasets["val"][0]
    assert sample["mask"].shape == sample["image"].shape[-2:] == (8, 8)
    with pytest.raises(ValueError, match="cannot be undone"):
        crop.setup("predict")


@pytest.mark.parametrize(
    ("config", "labels"),
    [("config.json", "v1.2/labels"), ("config.json", "labels"), ("config_v1.2.json", "v1.2/labels"),
     ("config_v2.0.json", "v2.0/labels")],
)  # fmt: skip
def test_mapillary_brings_its_classes(tmp_path: Path, save: Any, config: str, labels: str) -> None:
    listed = [
        {"name": "object--bird", "readable": "Bird", "color": [165, 42, 42], "evaluate": True},
        {"name": "void--unlabeled", "readable": "Unlabeled", "color": [0, 0, 0], "evaluate": False},
    ]
    (tmp_path / config).write_text(json.dumps({"version": "1.2", "labels": listed}))
    for split in ("training", "validation"):
        save(tmp_path / split / "images" / "0.jpg")
        save(tmp_path / split / labels / "0.png", np.zeros((24, 32), np.uint8))
    data = module(tmp_path, layout="mapillary")
    data.setup("fit")
    assert data.class_names == ["Bird"] and data.datasets["val"][0]["mask"].unique().tolist() == [0]
    assert detect_layout(tmp_path) == "mapillary"
