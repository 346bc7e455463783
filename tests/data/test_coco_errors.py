"""COCO files that cannot be right are explained in one line that names the file and the field."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dyvision.data import COCODataModule, DataError

Write = Callable[..., Path]


def module(root: Path, **options: Any) -> COCODataModule:
    return COCODataModule(root, **{"batch_size": 2, "num_workers": 0, "train_transform": [], **options})


def _edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]

    def apply(content: dict[str, Any]) -> None:
        node: Any = content
        for key in parents:
            node = node[key]
        node[last] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("annotations"), "no list 'annotations' .*images, categories.*COCO's instances format"),
        (lambda c: c.pop("categories"), "no list 'categories'"),
        (_edit("images", {}), "no list 'images'"),
        (_edit("categories", []), "'categories' is empty"),
        (_edit("categories.0.id", 3), "category id 3 is used twice"),
        (_edit("categories.0.name", None), "category number 0 with name None: 'name' has to be text"),
        (_edit("images.1.id", 10), "image id 10 is used twice"),
        (_edit("images.1.id", [20]), r"image number 1 with id \[20\]: 'id' has to be a whole number"),
        (_edit("images.1", 5), "image number 1, 5: not an object with 'id'"),
        (_edit("images.1.file_name", None), "image number 1 with file_name None: 'file_name' has to be text"),
        (_edit("images.1.height", 0), "image 20 with height 0: 'height' has to be a positive whole number"),
        (_edit("images.1.file_name", "/etc/passwd"), "file_name '/etc/passwd' of image 20: it leaves the image folder"),
        (_edit("images.1.file_name", "../val2017/20.png"), "leaves the image folder"),
        (_edit("images.1.file_name", "a/../../20.png"), "leaves the image folder"),
        (_edit("images.1.file_name", "..\\20.png"), "leaves the image folder"),
        (_edit("images.1.file_name", "C:\\20.png"), "leaves the image folder"),
        (_edit("images.1.file_name", "lost.png"), "1 of 3 images are not in .*train2017: lost.png"),
        (_edit("annotations.1.id", 1), "annotation id 1 is used twice"),
        (
            _edit("annotations.1.category_id", 4),
            r"category_id 4 of annotation 2: not in 'categories' \(3, 7\)",
        ),
        (_edit("annotations.1.image_id", 11), "image_id 11 of annotation 2: not in 'images'"),
        (_edit("annotations.1.bbox", [1, 2, 3]), "annotation 2 with bbox .*: 'bbox' has to be a list of four numbers"),
        (_edit("annotations.1.bbox", [1, 2, 3, "four"]), "has to be a list of four numbers"),
        (_edit("annotations.1.bbox", [1, 2, 3, True]), "has to be a list of four numbers"),
        (_edit("annotations.1.bbox", "0 0 1 1"), "annotation 2 with bbox '0 0 1 1': 'bbox' has to be a list"),
        (_edit("annotations.1.bbox", [1, 2, float("nan"), 4]), "annotation 2 with bbox .* not finite"),
        (_edit("annotations.1.bbox", [1, 2, float("inf"), 4]), "not finite"),
    ],
)
def test_a_broken_file_is_explained_in_one_line(
    write_coco: Write, coco_json: dict[str, Any], edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(coco_json)
    with pytest.raises(DataError, match=message) as error:
        module(write_coco(coco_json)).setup("fit")
    assert "\n" not in str(error.value)
    assert "instances_train2017.json" in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "not json", "[1, 2]", "null"])
def test_not_a_coco_file(write_coco: Write, text: str) -> None:
    with pytest.raises(DataError, match=r"instances_train2017.json: (not a JSON file|no list|the file is empty)"):
        module(write_coco(text)).setup("fit")


def test_links_are_followed_wherever_they_lead(
    write_coco: Write, coco_json: dict[str, Any], tmp_path_factory: Any
) -> None:
    root = write_coco(coco_json)
    outside = tmp_path_factory.mktemp("outside")
    image = root / "train2017" / "20.png"
    os.replace(image, outside / "20.png")
    image.symlink_to(outside / "20.png")
    data = module(root)
    data.setup("fit")
    assert data.datasets["train"][1]["path"] == str(image)  # the name of the link, not of its target
    image.unlink()
    (root / "train2017" / "sub").symlink_to(outside)
    coco_json["images"][1]["file_name"] = "sub/20.png"
    write_coco(coco_json, splits=("val2017",))
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(coco_json))
    assert len(module(root).build_dataset("train2017", train=True)) == 2


def test_the_image_folder_itself_may_be_a_link(
    write_coco: Write, coco_json: dict[str, Any], tmp_path_factory: Any
) -> None:
    root = write_coco(coco_json)
    elsewhere = tmp_path_factory.mktemp("disk") / "images"
    os.replace(root / "train2017", elsewhere)
    (root / "train2017").symlink_to(elsewhere)
    data = module(root)
    data.setup("fit")
    assert len(data.datasets["train"]) == 2


def test_splits_have_to_agree_on_the_categories(write_coco: Write, coco_json: dict[str, Any]) -> None:
    root = write_coco(coco_json)
    other = copy.deepcopy(coco_json)
    other["categories"][1]["name"] = "bee"
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match=r"different categories \(3: 'ant' / 'bee'\)"):
        module(root).setup("fit")
