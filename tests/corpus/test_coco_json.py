"""Annotation files that no tool should have written; what can be read as what was meant is no case of these."""

from __future__ import annotations

import json
from typing import Any

import pytest

FIT = {"train2017": "instances_train2017.json"}

#: text of the file, words of the line
TEXTS: dict[str, tuple[str, ...]] = {
    "empty": ("", "instances_train2017.json"),
    "no JSON": ("hello", "instances_train2017.json"),
    "half": ('{"images": [{"id": 1,', "instances_train2017.json"),
    "list": ("[]", "instances_train2017.json"),
    "number": ("3", "instances_train2017.json"),
    "null": ("null", "instances_train2017.json"),
    "empty mapping": ("{}", "instances_train2017.json"),
    "deep": ("[" * 100_000 + "]" * 100_000, "instances_train2017.json"),
    "binary": ("\x00\x01\x02", "instances_train2017.json"),
}


def _each(key: str, **change: Any) -> Any:
    def spoil(content: dict[str, Any]) -> None:
        for record in content[key]:
            record.update(change)

    return spoil


def _without(key: str, field: str) -> Any:
    def spoil(content: dict[str, Any]) -> None:
        for record in content[key]:
            record.pop(field)

    return spoil


def _set(key: str, value: Any) -> Any:
    return lambda content: content.update({key: value})


#: what is done to a good file, words of the line
CHANGES: dict[str, tuple[Any, ...]] = {
    "no images": (_set("images", []), "images"),
    "images is a mapping": (_set("images", {"a": 1}), "images", "list"),
    "images is text": (_set("images", "abc"), "images", "list"),
    "images holds numbers": (_set("images", [1, 2]), "images"),
    "no categories": (_set("categories", []), "categories"),
    "categories is null": (_set("categories", None), "categories"),
    "categories holds names": (_set("categories", ["ant", "bee"]), "category"),
    "annotations is a mapping": (_set("annotations", {"a": 1}), "annotations", "list"),
    "annotations holds text": (_set("annotations", ["a"]), "annotation"),
    "images without id": (_without("images", "id"), "id"),
    "images without file_name": (_without("images", "file_name"), "file_name"),
    "images without a file": (_each("images", file_name="nowhere.jpg"), "nowhere.jpg"),
    "file_name is a number": (_each("images", file_name=5), "file_name"),
    "file_name is null": (_each("images", file_name=None), "file_name"),
    "file_name leaves the folder": (_each("images", file_name="../../secret.jpg"), "file_name|secret.jpg"),
    "file_name is absolute": (_each("images", file_name="/etc/secret.jpg"), "secret.jpg"),
    "two images with one id": (_each("images", id=1), "id"),
    "sizes are negative": (_each("images", width=-5), "width"),
    "sizes are NaN": (_each("images", width=float("nan")), "width"),
    "sizes are text": (_each("images", width="wide"), "width"),
    "sizes do not fit": (_each("images", width=100, height=100), "100"),
    "no bbox": (_without("annotations", "bbox"), "bbox"),
    "bbox is short": (_each("annotations", bbox=[1, 2, 3]), "bbox"),
    "bbox is text": (_each("annotations", bbox="1 2 3 4"), "bbox"),
    "bbox holds text": (_each("annotations", bbox=["a", 1, 2, 3]), "bbox"),
    "bbox is null": (_each("annotations", bbox=None), "bbox"),
    "bbox is a mapping": (_each("annotations", bbox={"x": 1}), "bbox"),
    "bbox is NaN": (_each("annotations", bbox=[float("nan"), 1, 2, 3]), "bbox"),
    "bbox is infinite": (_each("annotations", bbox=[float("inf"), 1, 2, 3]), "bbox"),
    "image_id is unknown": (_each("annotations", image_id=77), "image_id"),
    "image_id is a list": (_each("annotations", image_id=[1]), "image_id"),
    "image_id is missing": (_without("annotations", "image_id"), "image_id"),
    "category_id is unknown": (_each("annotations", category_id=77), "category"),
    "category_id is missing": (_without("annotations", "category_id"), "category_id"),
    "category_id is a list": (_each("annotations", category_id=[1]), "category_id"),
    "category_id is a fraction": (_each("annotations", category_id=1.5), "category_id"),
    "categories without id": (_without("categories", "id"), "id"),
    "categories without name": (_without("categories", "name"), "name"),
    "two categories with one id": (_each("categories", id=1), "id"),
    "category id is text": (_each("categories", id="a"), "id"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_refused(name, own, refused_in_fit) -> None:
    text, *words = TEXTS[name]
    root = own("detection")
    (root / "annotations" / "instances_train2017.json").write_text(text, encoding="utf-8")
    refused_in_fit("detection", [], *words, root=root)


@pytest.mark.parametrize("name", CHANGES)
def test_content_is_refused(name, own, refused_in_fit) -> None:
    spoil, *words = CHANGES[name]
    root = own("detection")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    line = refused_in_fit("detection", [], "train2017", root=root)
    assert all(any(part in line for part in word.split("|")) for word in words), line


#: segmentations that hold no mask
MASKS = [
    {"counts": "ab~~~"},
    {"size": [32, 48]},
    {"counts": [1, 2, 3], "size": [32, 48]},
    {"counts": [-5, 1541], "size": [32, 48]},
    {"counts": [1e18], "size": [32, 48]},
    {"counts": [1536], "size": [100000000, 100000000]},
    [[float("nan")] * 6],
    [["a", "b", "c", "d", "e", "f"]],
    "polygon",
    5,
    [[1, 2]],
    [],
    None,
]


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_masks_are_refused(mask, own, refused_in_fit) -> None:
    root = own("detection")
    for split in ("train2017", "val2017"):
        path = root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            annotation["segmentation"] = mask
        path.write_text(json.dumps(content))
    refused_in_fit(
        "detection",
        ["--data.masks=true", "--model.head=mask_rcnn"],
        "instances_train2017.json",
        "segmentation",
        root=root,
    )
