"""Small hand-made data sets: every pixel and number in them is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture
def save() -> Save:
    """Writes an image; by default a grey ramp of height 24 and width 32."""

    def write(path: Path, array: np.ndarray | None = None, **options: Any) -> Path:
        if array is None:
            array = np.tile(np.arange(32, dtype=np.uint8)[None, :, None] * 8, (24, 1, 3))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, **options)
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path, save: Save) -> Path:
    """ImageNet's layout: 2 classes, 3 training and 1 validation image each, numbered by brightness."""
    for name in ("cat", "dog"):
        for split, count in (("train", 3), ("val", 1)):
            for number in range(count):
                save(tmp_path / split / name / f"{number}.png", np.full((20, 30, 3), 40 * number, np.uint8))
    return tmp_path


@pytest.fixture
def cityscapes(tmp_path: Path, save: Save) -> Path:
    """Cityscapes' layout: 2 training and 1 validation image; road on the left, sky on the right, a row unlabelled."""
    labels = np.full((24, 32), 7, np.uint8)
    labels[:, 16:] = 23
    labels[0] = 0
    for split, names in (("train", ("a", "b")), ("val", ("c",))):
        for name in names:
            save(tmp_path / "leftImg8bit" / split / "town" / f"{name}_leftImg8bit.png")
            save(tmp_path / "gtFine" / split / "town" / f"{name}_gtFine_labelIds.png", labels)
    return tmp_path


@pytest.fixture
def coco_json() -> dict[str, Any]:
    """Three images of height 24 and width 32: two boxes and a crowd, one box, nothing; category ids 3 and 7."""

    def annotation(number: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
        x, y, w, h = box
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        return {
            "id": number, "image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0,
            "segmentation": [polygon], **more,
        }  # fmt: skip

    crowd = {"size": [24, 32], "counts": [0, 240, 528]}  # the ten columns on the left
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "height": 24, "width": 32} for number in (10, 20, 30)],
        "annotations": [
            annotation(1, 10, 7, [2, 3, 10, 12]),
            annotation(2, 10, 3, [16, 4, 8, 8]),
            annotation(3, 10, 3, [0, 0, 10, 24], iscrowd=1, segmentation=crowd),
            annotation(4, 20, 3, [5.5, 6.25, 10, 9]),
        ],
        "categories": [{"id": 7, "name": "zebra"}, {"id": 3, "name": "ant"}],
    }


@pytest.fixture
def write_coco(tmp_path: Path, save: Save) -> Callable[..., Path]:
    """Writes a data set whose two splits are the given dictionary (or text)."""

    def write(content: Any, splits: tuple[str, ...] = ("train2017", "val2017")) -> Path:
        for split in splits:
            for number in (10, 20, 30):
                save(tmp_path / split / f"{number}.png")
            path = tmp_path / "annotations" / f"instances_{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path

    return write
