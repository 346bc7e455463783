"""The annotations of a file as columns: one pass over the records, then checks of whole columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyvision.data.coco_fields import NUMBERS, Fields, RefusedError, short
from dyvision.data.coco_segmentations import Segmentations
from dyvision.data.errors import DataError
from dyvision.text import some

_LARGEST = 1e8  # pixels; no image is larger
#: keys of the annotations of COCO's other formats
_OTHER_FORMATS = {"segments_info": "panoptic", "caption": "captions"}


class AnnotationTable:
    """Columns of the annotations, one row each, in the file's order.

    Args:
        fields: Reports repairs and refusals.
        masks: Keep segmentations; without it they are dropped while reading.

    Attributes:
        ids: Annotation ids; None where there is none.
        image_keys: ``image_id`` as in the file.
        category_keys: ``category_id`` as in the file.
        boxes: float64 ``[N, 4]``: x, y, width, height; after :meth:`seal`.
        areas: float64 ``[N]``; the box's where the file has none; after :meth:`seal`.
        crowd: bool ``[N]``; after :meth:`seal`.
        segmentations: A row per annotation, or None.
    """

    def __init__(self, fields: Fields, masks: bool) -> None:
        self.fields = fields
        self.ids: list[int | str | None] = []
        self.image_keys: list[int | str] = []
        self.category_keys: list[int | str] = []
        self.boxes: Any = array("d")
        self.areas: Any = array("d")
        self.crowd: Any = bytearray()
        self.segmentations = Segmentations(fields) if masks else None

    def read(self, records: Iterator[Any]) -> None:
        """Takes the records of ``annotations``."""
        ids, images, categories = self.ids.append, self.image_keys.append, self.category_keys.append
        boxes, areas, crowds, segmentations = (
            self.boxes.extend,
            self.areas.append,
            self.crowd.append,
            self.segmentations,
        )
        for position, record in enumerate(records):
            try:
                number, image, category = record["id"], record["image_id"], record["category_id"]
                box, area, crowd = record["bbox"], record["area"], record["iscrowd"]
                x, y, w, h = box
                # what nearly every record is; type() because True is an int to isinstance
                plain = (
                    type(number) is int and type(image) is int and type(category) is int and type(crowd) is int
                    and type(x) in NUMBERS and type(y) in NUMBERS and type(w) in NUMBERS and type(h) in NUMBERS
                    and type(area) in NUMBERS and type(box) is list
                )  # fmt: skip
                values: tuple[float, ...] = (float(x), float(y), float(w), float(h), float(area)) if plain else ()
            except (KeyError, TypeError, ValueError, OverflowError):
                plain = False
            try:
                if not plain or crowd not in (0, 1):
                    number, image, category, values, crowd = self._repair(record, position)
                if segmentations is not None:
                    segmentations.add(record.get("segmentation"), partial(_name, number, position))
            except RefusedError:
                continue
            ids(number)
            images(image)
            categories(category)
            boxes(values[:4])
            areas(values[4])
            crowds(crowd)

    def _repair(self, record: Any, position: int) -> tuple[Any, Any, Any, tuple[float, ...], int]:
        fields, where = self.fields, f"annotation number {position}"
        if not isinstance(record, dict):
            raise fields.refuse("not an object with 'id', 'image_id', ...", f"{where}, {short(record)}")
        number = record.get("id")
        if number is None:
            fields.findings.repaired(fields.path, "an annotation has no 'id'", "it is not needed", where)
        else:
            number = fields.identity(number, "id", where)
        where = _name(number, position)
        for key in ("image_id", "category_id"):
            if record.get(key) is None:
                other = next((kind for sign, kind in _OTHER_FORMATS.items() if sign in record), None)
                if other is not None:
                    raise DataError(f"{fields.path}: COCO's {other} format; detection needs an instances file.")
                raise fields.wrong(None, key, "a whole number", where)
        image = fields.identity(record["image_id"], "image_id", where)
        category = fields.identity(record["category_id"], "category_id", where)
        box = fields.box(record.get("bbox"), where)
        area = None
        if "area" in record:
            area = fields.number(record["area"], "area", where, "the box's area is used")
        crowd = fields.crowd(record["iscrowd"], where) if "iscrowd" in record else 0
        return number, image, category, (*box, box[2] * box[3] if area is None else area), crowd

    def name(self, row: int) -> str:
        """A row for messages."""
        return _name(self.ids[row], row)

    def seal(self, images: dict[int | str, int], categories: dict[int, str]) -> tuple[NDArray[Any], NDArray[Any], Any]:
        """Checks the columns and turns them into arrays; afterwards nothing can be read.

        Args:
            images: Position of each image id.
            categories: Those of the file.

        Returns:
            int64 ``[N]``: position of each row's image; int64 ``[N]``: each row's category; bool ``[N]``: rows that
            were not refused.
        """
        self.boxes = np.frombuffer(self.boxes, dtype=np.float64).reshape(-1, 4) if self.ids else np.zeros((0, 4))
        self.areas = np.array(self.areas, dtype=np.float64)
        self.crowd = np.frombuffer(bytes(self.crowd), dtype=np.bool_)
        good = np.ones(len(self.ids), dtype=np.bool_)
        owners = self._owners(images, good)
        labels = self._labels(categories, good)
        size = np.abs(self.boxes).max(axis=1, initial=0)
        self._refuse(~np.isfinite(size), good, "'bbox' holds a value that is not finite", "bbox", self.boxes)
        self._refuse(size > _LARGEST, good, "'bbox' holds a value larger than any image", "bbox", self.boxes)
        self._refuse(~np.isfinite(self.areas), good, "'area' is not finite", "area", self.areas)
        # files that state it so mostly took it from a box of negative size
        self._refuse(
            (self.areas < 0) & (self.boxes[:, 2:] > 0).all(axis=1), good, "'area' is negative", "area", self.areas
        )
        return owners, labels, good

    def _owners(self, images: dict[int | str, int], good: NDArray[np.bool_]) -> NDArray[np.int64]:
        owners = np.array([images.get(key, -1) for key in self.image_keys], dtype=np.int64)
        for row in np.flatnonzero(owners < 0).tolist():
            self._say("not in 'images'", f"image_id {short(self.image_keys[row])}", row, good)
        self.image_keys = []
        return owners

    def _labels(self, categories: dict[int, str], good: NDArray[np.bool_]) -> NDArray[np.int64]:
        known = np.array([key in categories for key in self.category_keys], dtype=np.bool_)
        for row in np.flatnonzero(~known).tolist():
            name = f"category_id {short(self.category_keys[row])}"
            self._say(f"not in 'categories' ({some(categories, 8)})", name, row, good)
        labels = np.array(
            [key if ok else 0 for key, ok in zip(self.category_keys, known.tolist(), strict=True)], np.int64
        )
        self.category_keys = []
        return labels

    def _refuse(self, wrong: NDArray[Any], good: NDArray[np.bool_], what: str, name: str, column: NDArray[Any]) -> None:
        for row in np.flatnonzero(wrong & good).tolist():
            good[row] = False
            self.fields.findings.refused_because(
                self.fields.path, what, "correct or remove the annotation",
                f"{self.name(row)} with {name} {short(column[row].tolist())}",
            )  # fmt: skip

    def _say(self, what: str, field: str, row: int, good: NDArray[np.bool_]) -> None:
        good[row] = False
        self.fields.findings.refused_because(
            self.fields.path, what, "correct or remove the annotation", f"{field} of {self.name(row)}"
        )

    def refuse_repeated(self) -> None:
        """Refuses annotation ids that appear twice."""
        seen: set[Any] = set()
        if len(set(self.ids)) == len(self.ids):
            return
        for row, number in enumerate(self.ids):
            if number is not None and number in seen:
                self.fields.findings.refused_because(
                    self.fields.path, f"annotation id {number} is used twice", "ids have to be unique", self.name(row)
                )
            seen.add(number)


def _name(number: Any, position: int) -> str:
    return f"annotation number {position}" if number is None else f"annotation {number}"
