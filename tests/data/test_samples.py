"""If these fail, the sample data changed from one run to the next, or its three formats tell different stories."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyvision.data import (
    SAMPLE_CLASSES,
    SAMPLE_LABELS,
    CityscapesDataModule,
    COCODataModule,
    ImageFolderDataModule,
    write_sample_data,
)
from dyvision.data.sample.scenes import draw_scene

COUNTS: dict[str, Any] = {
    "train_scenes": 3, "val_scenes": 2, "train_crops": 7, "val_crops": 6, "size": 48, "crop_size": 24
}  # fmt: skip


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    first = contents(write_sample_data(tmp_path / "a", **COUNTS))
    assert first == contents(write_sample_data(tmp_path / "b", **COUNTS))
    other = contents(write_sample_data(tmp_path / "c", **COUNTS, seed=1))
    assert first.keys() == other.keys()
    assert sum(first[name] == other[name] for name in first if name.endswith((".jpg", ".png"))) == 0


def test_more_scenes_leave_the_first_as_they_were(tmp_path: Path) -> None:
    few = contents(write_sample_data(tmp_path / "a", **COUNTS))
    more = contents(write_sample_data(tmp_path / "b", **{**COUNTS, "train_scenes": 4}))
    images = [name for name in few if name.startswith("cityscapes")]
    assert images
    assert all(few[name] == more[name] for name in images)


def test_the_counts_are_those_asked_for(tmp_path: Path) -> None:
    root = write_sample_data(tmp_path, **COUNTS)
    assert len(list((root / "cityscapes" / "leftImg8bit" / "train").rglob("*.jpg"))) == 3
    assert len(list((root / "cityscapes" / "gtFine" / "val").rglob("*_labelIds.png"))) == 2
    assert len(list((root / "coco" / "val2017").iterdir())) == 2
    for split, per_class in (("train", 2), ("val", 2)):  # 7 and 6 over five classes, rounded up
        folders = sorted((root / "imagenet" / split).iterdir())
        assert len(folders) == len(SAMPLE_CLASSES)
        assert [len(list(folder.iterdir())) for folder in folders] == [per_class] * len(folders)


def test_the_readers_accept_it_without_a_word(sample_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        modules = [
            ImageFolderDataModule(sample_data / "imagenet", num_workers=0, image_size=32),
            CityscapesDataModule(sample_data / "cityscapes", num_workers=0, classes=list(SAMPLE_LABELS)),
            COCODataModule(sample_data / "coco", num_workers=0),
        ]
        for data in modules:
            data.setup("fit")
            for dataset in data.datasets.values():
                for index in range(len(dataset)):
                    dataset[index]
    assert sorted(modules[0].class_names) == sorted(modules[2].class_names) == sorted(SAMPLE_CLASSES)
    assert modules[1].class_names == list(SAMPLE_LABELS)
    assert set(SAMPLE_CLASSES) <= set(SAMPLE_LABELS)


def test_coco_has_gaps_a_crowd_and_an_empty_image(tmp_path: Path) -> None:
    root = write_sample_data(tmp_path, **{**COUNTS, "train_scenes": 40, "size": 64})
    content = json.loads((root / "coco" / "annotations" / "instances_train2017.json").read_text())
    ids = [category["id"] for category in content["categories"]]
    assert ids == sorted(ids)
    assert ids != list(range(1, len(ids) + 1))
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    assert len(annotated) < len(content["images"])
    assert any(annotation["iscrowd"] for annotation in content["annotations"])
    assert {annotation["category_id"] for annotation in content["annotations"]} == set(ids)
    val = json.loads((root / "coco" / "annotations" / "instances_val2017.json").read_text())
    assert not {image["id"] for image in content["images"]} & {image["id"] for image in val["images"]}


def test_boxes_are_those_of_the_label_map(tmp_path: Path) -> None:
    root = write_sample_data(tmp_path, **{**COUNTS, "train_scenes": 12, "size": 64})
    content = json.loads((root / "coco" / "annotations" / "instances_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    from dyvision.data.sample.streets import LABEL_IDS

    maps = sorted((root / "cityscapes" / "gtFine" / "train").rglob("*.png"), key=lambda path: path.name.split("_")[1])
    by_image = {image["id"]: np.array(Image.open(path)) for image, path in zip(content["images"], maps, strict=True)}
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        label = LABEL_IDS[names[annotation["category_id"]]]
        inside = by_image[annotation["image_id"]][y : y + h, x : x + w] == label
        assert inside.sum() >= annotation["area"] > 0
        assert all(inside[edge].any() for edge in (0, -1))
        assert all(inside[:, edge].any() for edge in (0, -1))


def test_colour_does_not_give_the_class_away() -> None:
    # the nearest class mean in colour: with five classes chance is 1/5
    means: dict[str, list[np.ndarray]] = {name: [] for name in SAMPLE_CLASSES}
    for number in range(90):
        scene = draw_scene(np.random.default_rng(number), 64)
        for item in scene.objects:
            means[item.name].append(scene.image[scene.instances == item.number].mean(axis=0))
    centers = np.array([np.mean(means[name][::2], axis=0) for name in SAMPLE_CLASSES])
    tests = [(k, color) for k, name in enumerate(SAMPLE_CLASSES) for color in means[name][1::2]]
    hits = [np.argmin(((centers - color) ** 2).sum(axis=1)) == k for k, color in tests]
    assert len(hits) > 100
    assert np.mean(hits) < 0.5


@pytest.mark.parametrize(("name", "value"), [("train_scenes", 0), ("size", 8), ("crop_size", 1), ("seed", -1)])
def test_wrong_numbers(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}: expected at least"):
        write_sample_data(tmp_path, **{**COUNTS, name: value})
