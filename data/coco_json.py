"""Reads and checks an ``instances_*.json`` before anything is trained on it."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from dyvision.data.errors import DataError, did_you_mean, some
from dyvision.data.files import image_size, list_folders, list_images

_KEYS = ("images", "annotations", "categories")


class CocoImage(NamedTuple):
    """One image of an annotation file.

    Attributes:
        id: Image id.
        path: The file.
        height: Pixels.
        width: Pixels.
        annotations: The annotation dictionaries of the file, crowds included, with ``iscrowd`` and ``area`` filled in
            where they were left out (COCOeval needs them).
        boxes: xyxy, clipped to the image, of the annotations to train on.
        rows: Position in ``annotations`` of each of ``boxes``.
    """

    id: int
    path: str
    height: int
    width: int
    annotations: list[dict[str, Any]]
    boxes: list[tuple[float, float, float, float]]
    rows: list[int]


class CocoFile(NamedTuple):
    """A checked annotation file.

    Attributes:
        images: In the file's order.
        categories: ``{category id: name}``, by id.
    """

    images: list[CocoImage]
    categories: dict[int, str]


def read_coco(path: Path, folder: Path) -> CocoFile:
    """Reads an annotation file and checks it against the folder of its images.

    Boxes that reach over the border are clipped, boxes of no size or wholly outside are left out; one warning counts
    them.

    Args:
        path: The JSON file.
        folder: Where ``file_name`` is looked up.

    Raises:
        DataError: If the file is not COCO's format, if ids are used twice or lead nowhere, if a number is not one, or
            if an image is missing or lies outside ``folder``.
    """
    data = _read_json(path)
    categories = _categories(data["categories"], path)
    images = {image["id"]: image for image in _records(data["images"], "image", path, {"id": int, "file_name": str})}
    files = _files(images, path, folder)
    per_image: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    needed = {"id": int, "image_id": int, "category_id": int, "bbox": list}
    for annotation in _records(data["annotations"], "annotation", path, needed):
        name = f"{path}: annotation {annotation['id']}"
        if annotation["image_id"] not in images:
            raise DataError(f"{name} belongs to image_id {annotation['image_id']}, which is not in 'images'.")
        if annotation["category_id"] not in categories:
            raise DataError(
                f"{name} has category_id {annotation['category_id']}, which is not in 'categories' "
                f"({some(categories, 8)})."
            )
        _check_box(annotation["bbox"], name)
        per_image[annotation["image_id"]].append(annotation)
    repairs: Counter[str] = Counter()
    result = [_image(key, files[key], image, per_image[key], path, repairs) for key, image in images.items()]
    if repairs:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(repairs.items()))
        warnings.warn(f"{path}: boxes repaired for training: {counts}.", stacklevel=2)
    return CocoFile(result, categories)


def read_categories(path: Path) -> dict[int, str]:
    """Only the categories of an annotation file, ``{category id: name}``."""
    return _categories(_read_json(path)["categories"], path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        siblings = sorted(item.name for item in path.parent.glob("*.json")) if path.parent.is_dir() else []
        raise DataError(f"there is no annotation file {path}.{did_you_mean(path.name, siblings)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a JSON file ({error}); expected COCO's instances format.") from error
    missing = [key for key in _KEYS if not isinstance(data, dict) or not isinstance(data.get(key), list)]
    if missing:
        found = some(data) if isinstance(data, dict) else type(data).__name__
        raise DataError(
            f"{path}: no list {some(map(repr, missing))} (found: {found or 'nothing'}); COCO's instances format has "
            "'images', 'annotations' and 'categories'."
        )
    return data


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _records(items: list[Any], what: str, path: Path, needed: dict[str, type]) -> list[dict[str, Any]]:
    seen: set[int] = set()
    for position, item in enumerate(items):
        for key, kind in needed.items():
            if not isinstance(item, dict) or not _is(item.get(key), kind):
                got = f"{item.get(key)!r}" if isinstance(item, dict) else f"{item!r} instead of an object"
                raise DataError(f"{path}: {what} number {position} needs {key!r} of type {kind.__name__}, got {got}.")
        if item["id"] in seen:
            raise DataError(f"{path}: {what} id {item['id']} is used twice; ids have to be unique.")
        seen.add(item["id"])
    return items


def _categories(items: list[Any], path: Path) -> dict[int, str]:
    records = _records(items, "category", path, {"id": int, "name": str})
    if not records:
        raise DataError(f"{path}: 'categories' is empty; there is nothing to detect.")
    return {record["id"]: record["name"] for record in sorted(records, key=lambda record: record["id"])}


def _check_box(box: list[Any], name: str) -> None:
    if len(box) != 4 or not all(_is(value, int) or _is(value, float) for value in box):
        raise DataError(f"{name}: bbox {box!r} is not a list of four numbers [x, y, width, height].")
    if not all(math.isfinite(value) for value in box):
        raise DataError(f"{name}: bbox {box!r} holds a value that is not finite; correct or remove the annotation.")


def _files(images: dict[int, dict[str, Any]], path: Path, folder: Path) -> dict[int, str]:
    if not folder.is_dir():
        siblings = list_folders(folder.parent) if folder.parent.is_dir() else []
        raise DataError(f"there is no image folder {folder}.{did_you_mean(folder.name, siblings)}")
    present = set(list_images(folder))  # one walk is much faster than a question per image
    base = folder.resolve()
    safe_folders: dict[str, bool] = {}
    files: dict[int, str] = {}
    missing: list[str] = []
    for image_id, image in images.items():
        name = image["file_name"]
        where = f"{path}: file_name {name!r} of image {image_id}"
        pure = PurePosixPath(name)
        if pure.is_absolute() or PureWindowsPath(name).anchor or ".." in (*pure.parts, *PureWindowsPath(name).parts):
            raise DataError(f"{where} leaves the image folder {folder}; it has to be a path relative to that folder.")
        file = folder / name
        if str(pure) not in present and not file.is_file():
            missing.append(name)
            continue
        # a link may point outside; asking for each file's parents once is enough when the file itself is none
        parent = str(file.parent)
        if parent not in safe_folders:
            safe_folders[parent] = file.parent.resolve().is_relative_to(base)
        if not safe_folders[parent] or (file.is_symlink() and not file.resolve().is_relative_to(base)):
            raise DataError(f"{where} is a link that leaves the image folder {folder}; copy the file there.")
        files[image_id] = str(file)
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(images)} images are not in {folder}: {some(missing, 3)}; set the image "
            "folder, or remove them from the file."
        )
    return files


def _image(
    image_id: int,
    file: str,
    record: dict[str, Any],
    annotations: list[dict[str, Any]],
    path: Path,
    repairs: Counter[str],
) -> CocoImage:
    height, width = record.get("height"), record.get("width")
    if height is None or width is None:
        height, width = image_size(file)
    if not (_is(height, int) and _is(width, int) and height > 0 and width > 0):
        raise DataError(f"{path}: image {image_id} has height={height!r}, width={width!r}; expected positive integers.")
    completed, boxes, rows = [], [], []
    for row, annotation in enumerate(annotations):
        x, y, w, h = (float(value) for value in annotation["bbox"])
        completed.append({"iscrowd": 0, "area": w * h, **annotation})
        if completed[-1]["iscrowd"]:
            continue
        box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
        if w <= 0 or h <= 0:
            repairs["of zero or negative size left out"] += 1
        elif box[2] <= box[0] or box[3] <= box[1]:
            repairs["outside their image left out"] += 1
        else:
            # official files have boxes that reach over the border by rounding only
            if max(abs(box[0] - x), abs(box[1] - y), abs(box[2] - x - w), abs(box[3] - y - h)) > 1:
                repairs["reaching over the border clipped"] += 1
            boxes.append(box)
            rows.append(row)
    return CocoImage(image_id, file, height, width, completed, boxes, rows)
