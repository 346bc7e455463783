"""The segmentations of a whole annotation file in a few arrays, checked before pycocotools sees one."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dyvision.data.coco_fields import Fields, RefusedError
from dyvision.data.coco_masks import MIN_POLYGON, clean, count_pixels, total_of

_NONE, _POLYGONS, _RUNS, _TEXT = range(4)
#: coordinates of more corners than this are looked at for the length of the outline
_MANY = 4000
#: pycocotools keeps five points per pixel of an outline
_LONGEST_OUTLINE = 10_000_000
_CHUNK = 2_000_000
#: run lengths, or characters of them, that an empty mask may have
_SHORT = 16


class _Polygons(NamedTuple):
    """Rows with polygons, and the smallest and largest x and y of each, float64 ``[N, 2]``."""

    rows: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Segmentations:
    """One row per annotation. Numbers lie in one array, so worker processes share them.

    Args:
        fields: Reports repairs and refusals.

    Attributes:
        blank: bool ``[N]``: the masks without a pixel in their image, or in their box; after :meth:`check`.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self.blank = np.zeros(0, dtype=np.bool_)
        self._kinds: Any = bytearray()
        self._numbers: Any = array("d")
        self._part_ends: Any = array("q")
        self._last_part: Any = array("q")
        self._text: Any = bytearray()
        self._text_ends: Any = array("q")
        # of run lengths: row, pixels covered, height and width (-1: not stated)
        self._codes: Any = array("q")

    def add(self, segmentation: Any, where: Callable[[], str]) -> None:
        """Appends one annotation's segmentation.

        Raises:
            RefusedError: If it is refused and refusals are collected; nothing is appended.
            DataError: If it is refused otherwise.
        """
        if not self._add_polygons(segmentation):
            self._add_other(clean(segmentation, where(), self._fields))
        self._last_part.append(len(self._part_ends))
        self._text_ends.append(len(self._text))

    def add_nothing(self) -> None:
        """Appends a row without a mask."""
        self._kinds.append(_NONE)
        self._last_part.append(len(self._part_ends))
        self._text_ends.append(len(self._text))

    def _add_polygons(self, polygons: Any) -> bool:
        """The common case, without a look at each number: ``fromlist`` takes numbers only."""
        if type(polygons) is not list or not polygons:
            return False
        numbers, ends, start, first = self._numbers, self._part_ends, len(self._numbers), len(self._part_ends)
        try:
            for polygon in polygons:
                count = len(polygon)
                if count < MIN_POLYGON or count % 2:
                    raise ValueError
                numbers.fromlist(polygon)
                ends.append(len(numbers))
        except (TypeError, ValueError, OverflowError):
            del numbers[start:], ends[first:]
            return False
        self._kinds.append(_POLYGONS)
        return True

    def _add_other(self, cleaned: Any) -> None:
        if cleaned is None:
            self._kinds.append(_NONE)
        elif isinstance(cleaned, list):
            self._add_polygons(cleaned)
        else:
            counts, size = cleaned["counts"], cleaned["size"] or (-1, -1)
            self._codes.extend((len(self._kinds), min(total_of(counts), 2**62), *size))
            if isinstance(counts, list):
                self._numbers.extend(counts)
                self._part_ends.append(len(self._numbers))
                self._kinds.append(_RUNS)
            else:
                self._text += counts.encode("ascii")
                self._kinds.append(_TEXT)

    def check(
        self,
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        boxes: NDArray[np.float64],
        areas: NDArray[np.float64],
        where: Callable[[int], str],
    ) -> None:
        """Compares all rows with the sizes of their images; afterwards nothing can be added.

        Args:
            heights: Of each row's image.
            widths: The same.
            boxes: x, y, width, height of each row.
            areas: As the file states them, or the boxes'.
            where: Names a row in messages.

        Raises:
            DataError: Unless refusals are collected; a refused row then has no mask.
        """
        self._kinds = np.frombuffer(self._kinds, dtype=np.uint8)
        self._text = bytes(self._text)
        self._numbers = np.frombuffer(self._numbers, dtype=np.float64)
        for name in ("_part_ends", "_last_part", "_text_ends"):
            setattr(self, name, np.frombuffer(getattr(self, name), dtype=np.int64))
        codes = np.frombuffer(self._codes, dtype=np.int64).reshape(-1, 4) if self._codes else np.zeros((0, 4), int)
        self._codes = None
        rows, total, height, width = codes.T
        stated = height >= 0
        for position in np.flatnonzero(stated & ((height != heights[rows]) | (width != widths[rows]))):
            row = int(rows[position])
            sizes = f"{height[position]}x{width[position]}, its image is {heights[row]}x{widths[row]}"
            self._refuse(row, f"run lengths are of another size (height x width) than the image: {sizes}", where)
        for position in np.flatnonzero(total != heights[rows] * widths[rows]):
            self._refuse(int(rows[position]), "run lengths do not add up to the size of the image", where)
        starts, ends = self._row_bounds()
        rows = np.flatnonzero(self._kinds == _POLYGONS)
        polygons = _Polygons(rows, *self._corners(starts[rows], ends[rows]))
        self._check_polygons(polygons, ends - starts, heights, widths, where)
        kept = self._kinds[rows] == _POLYGONS
        polygons = _Polygons(*(values[kept] for values in polygons))
        self.blank = self._find_blank(polygons, ends - starts, heights, widths, boxes, areas)
        self._tell_blank(len(polygons.rows), where)

    def _check_polygons(
        self,
        polygons: _Polygons,
        lengths: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        where: Callable[[int], str],
    ) -> None:
        rows, low, high = polygons
        reach = np.maximum(np.abs(low), np.abs(high)).max(axis=1, initial=0)
        for position in np.flatnonzero(~np.isfinite(reach)):
            self._refuse(int(rows[position]), "a polygon holds a coordinate that is not finite", where)
        far = rows[reach > _reach(heights[rows], widths[rows])]
        far = far[self._kinds[far] == _POLYGONS]
        self._far = set(far.tolist())
        for row in far.tolist():
            self._fields.findings.repaired(
                self._fields.path, "a polygon reaches far outside its image", "its corners are moved nearer", where(row)
            )
        for row in rows[lengths[rows] > _MANY].tolist():
            if (
                self._kinds[row] == _POLYGONS
                and self._outline(row, int(heights[row]), int(widths[row])) > _LONGEST_OUTLINE
            ):
                self._refuse(row, "the outline of a polygon is longer than any object's", where)

    def _corners(
        self, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Smallest and largest x and y of the numbers from each start to its end, float64 ``[N, 2]`` both."""
        low, high = np.zeros((len(starts), 2)), np.zeros((len(starts), 2))
        step = max(1, int(_CHUNK * len(starts) / max(1, len(self._numbers))))
        for first in range(0, len(starts), step):
            some = slice(first, first + step)
            begin, end = starts[some], ends[some]
            # from each start to its end; what lies between two rows (run lengths) is every other result
            bounds = np.stack([begin, end], axis=1).ravel() - begin[0]
            numbers = self._numbers[begin[0] : end[-1]]
            if (bounds % 2).any():  # run lengths of odd number between them
                numbers = np.concatenate(
                    [self._numbers[b:e] for b, e in zip(begin.tolist(), end.tolist(), strict=True)]
                )
                bounds = np.repeat(np.concatenate([[0], np.cumsum(end - begin)]), 2)[1:-1]
            for axis in (0, 1):
                values = np.append(numbers[axis::2], 0.0)
                low[some, axis] = np.minimum.reduceat(values, bounds // 2)[::2]
                high[some, axis] = np.maximum.reduceat(values, bounds // 2)[::2]
        return low, high

    def _find_blank(
        self,
        polygons: _Polygons,
        lengths: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
        boxes: NDArray[np.float64],
        areas: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Which masks have no pixel, bool ``[N]``; counted exactly, of those only that may have none."""
        rows, low, high = polygons
        blank = np.zeros(len(self._kinds), dtype=np.bool_)
        sizes = np.stack([widths[rows], heights[rows]], axis=1)
        # fractions of an image, or the numbers of a bitmap, may cover the first pixels
        blank[rows] = ((low >= 0) & (high <= 1) & (boxes[rows, 2:] > 2)).all(axis=1)
        narrow = ((high - low < 1) | (high <= 0) | (low >= sizes)).any(axis=1) | (areas[rows] < 1)
        short = (self._kinds == _RUNS) & (lengths <= _SHORT)
        text = (self._kinds == _TEXT) & (np.diff(self._text_ends, prepend=0) <= _SHORT)
        for row in np.concatenate([rows[narrow & ~blank[rows]], np.flatnonzero(short | text)]).tolist():
            height, width = int(heights[row]), int(widths[row])
            blank[row] = count_pixels(self.get(row, height, width), height, width) == 0
        return blank

    def _tell_blank(self, count: int, where: Callable[[int], str]) -> None:
        """Report the masks without a pixel, of ``count`` polygons and all run lengths."""
        polygons = self.blank & (self._kinds == _POLYGONS)
        if count and polygons.sum() == count:
            self._fields.findings.refused_because(
                self._fields.path,
                "no polygon covers a pixel of its box; are these fractions of the image, or bitmaps? COCO's polygons "
                "are corners in pixels",
                "multiply x by the width and y by the height of the image, and write bitmaps as run lengths",
            )
        for found, what in (
            (
                polygons,
                "a polygon covers no pixel of its image, or one of a larger box; fractions of the image, or a bitmap?",
            ),
            (self.blank & ~polygons, "run lengths without a pixel"),
        ):
            for row in np.flatnonzero(found).tolist():
                training = "left out of training; evaluation counts it as pycocotools does"
                self._fields.findings.warned(self._fields.path, what, training, where(row))

    def _row_bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each row's numbers start and end."""
        ends = np.where(self._last_part > 0, np.concatenate([[0], self._part_ends])[self._last_part], 0)
        return (np.concatenate([[0], ends[:-1]]) if len(ends) else ends), ends

    def _outline(self, row: int, height: int, width: int) -> float:
        polygons = self.get(row, height, width)
        corners = [np.asarray(polygon).reshape(-1, 2) for polygon in polygons]
        return float(sum(np.abs(np.diff(points, axis=0)).max(axis=1).sum() for points in corners))

    def _refuse(self, row: int, what: str, where: Callable[[int], str]) -> None:
        name = f"the segmentation of {where(row)}"
        self._kinds = self._kinds.copy() if not self._kinds.flags.writeable else self._kinds
        self._kinds[row] = _NONE
        try:
            raise self._fields.refuse(what, name, "correct or remove it")
        except RefusedError:
            return

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which rows have a mask."""
        found: NDArray[np.bool_] = self._kinds != _NONE
        return found

    def get(self, row: int, height: int, width: int) -> Any:
        """One annotation's segmentation in COCO's format, safe for pycocotools; None without one.

        Args:
            row: Which.
            height: Of the image.
            width: Of the image.
        """
        kind = self._kinds[row]
        if kind == _NONE:
            return None
        if kind == _TEXT:
            start = int(self._text_ends[row - 1]) if row else 0
            return {"size": [height, width], "counts": self._text[start : int(self._text_ends[row])].decode("ascii")}
        first = int(self._last_part[row - 1]) if row else 0
        parts = []
        for part in range(first, int(self._last_part[row])):
            start = int(self._part_ends[part - 1]) if part else 0
            parts.append(self._numbers[start : int(self._part_ends[part])])
        if kind == _RUNS:
            return {"size": [height, width], "counts": parts[0].astype(np.int64).tolist()}
        if row in self._far:
            reach = float(_reach(height, width))
            parts = [part.clip(-reach, reach) for part in parts]
        return [part.tolist() for part in parts]


def _reach(height: Any, width: Any) -> Any:
    """How far from the image's corner a polygon's corner may lie."""
    return 2.0 * (height + width)
