"""The image records of an annotation file as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dyvision.data.coco_fields import Fields, RefusedError, short
from dyvision.data.coco_files import name_of_url
from dyvision.data.errors import DataError
from dyvision.data.files import ImageReader, image_size

_LARGEST = 2**31  # pixels; run lengths are 32 bits wide


class ImageTable:
    """Columns of the images, one row each, in the file's order.

    Args:
        fields: Reports repairs and refusals.

    Attributes:
        ids: Image ids; those that were text have numbers of their own.
        names: ``file_name`` of each.
        positions: Row of each id, as the file writes it.
        sizes: int64 ``[N, 2]``, height and width; after :meth:`complete`.
        good: bool ``[N]``, rows that were not refused; after :meth:`complete`.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self.ids: list[int] = []
        self.names: list[str] = []
        self.positions: dict[int | str, int] = {}
        self._stated: list[tuple[int | None, int | None]] = []
        self._texts: list[tuple[int, str]] = []

    def read(self, records: Iterator[Any]) -> None:
        """Takes the records of ``images``."""
        for position, record in enumerate(records):
            try:
                number, name, height, width = self._record(record, position)
            except RefusedError:
                continue
            if number in self.positions:
                self._fields.findings.refused_because(
                    self._fields.path, f"image id {number} is used twice", "ids have to be unique",
                    f"image number {position}",
                )  # fmt: skip
                continue
            self.positions[number] = len(self.ids)
            if isinstance(number, str):
                self._texts.append((len(self.ids), number))
                number = 0
            self.ids.append(number)
            self.names.append(name)
            self._stated.append((height, width))
        self._number_texts()
        self._report_doubles()

    def _record(self, record: Any, position: int) -> tuple[int | str, str, int | None, int | None]:
        fields, where = self._fields, f"image number {position}"
        if not isinstance(record, dict):
            raise fields.refuse("not an object with 'id', 'file_name', ...", f"{where}, {short(record)}")
        number, name = record.get("id"), record.get("file_name")
        if type(number) is not int:
            number = fields.identity(number, "id", where)
        if name is None and isinstance(record.get("coco_url"), str):
            name = name_of_url(record["coco_url"])  # LVIS
        if not isinstance(name, str):
            raise fields.wrong(name, "file_name", "text", where)
        height, width = record.get("height"), record.get("width")
        if type(height) is not int or type(width) is not int or not (0 < height < _LARGEST and 0 < width < _LARGEST):
            where = f"image {number}"
            height = fields.side(height, "height", where) if "height" in record else None
            width = fields.side(width, "width", where) if "width" in record else None
        if height and width and height * width >= _LARGEST:
            raise fields.refuse("more pixels than any image", f"image {number} of height {height} and width {width}")
        return number, name, height, width

    def _number_texts(self) -> None:
        free = max(self.ids, default=0) + 1
        for row, text in self._texts:
            self.ids[row] = free
            free += 1
            self._fields.findings.repaired(
                self._fields.path, "the 'id' of an image is text", "numbered on; results files have these numbers",
                f"image {short(text)} is {self.ids[row]}",
            )  # fmt: skip

    def _report_doubles(self) -> None:
        if len(set(self.names)) == len(self.names):
            return
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                self._fields.findings.warned(
                    self._fields.path, "a file is listed more than once in 'images'",
                    "each entry is a sample of its own, with its own objects", short(name),
                )  # fmt: skip
            seen.add(name)

    def complete(self, files: Sequence[str | None], reader: ImageReader) -> None:
        """Reads the sizes that the file does not state from the images.

        Args:
            files: Of each row; None where there is none.
            reader: How pictures are read.

        Raises:
            DataError: If an image cannot be opened, unless refusals are collected.
        """
        good = [True] * len(files)
        for row, (height, width) in enumerate(self._stated):
            file = files[row]
            if (height is None or width is None) and file is not None:
                try:
                    self._stated[row] = image_size(file, reader.exif_orientation, reader.max_image_pixels)
                except DataError as error:
                    if not self._fields.findings.collect:
                        raise
                    self._fields.findings.refused_because(file, str(error), "replace or remove it")
                    good[row] = False
        self.good = np.array(good, dtype=np.bool_)
        self.sizes = np.array([(h or 1, w or 1) for h, w in self._stated], dtype=np.int64).reshape(-1, 2)
