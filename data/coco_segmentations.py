"""The segmentations of a whole annotation file in a few arrays, checked before pycocotools sees one."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyvision.data.coco_fields import Fields, RefusedError
from dyvision.data.coco_masks import MIN_POLYGON, clean, total_of

_NONE, _POLYGONS, _RUNS, _TEXT = range(4)
#: coordinates of more corners than this are looked at for the length of the outline
_MANY = 4000
#: pycocotools keeps five points per pixel of an outline
_LONGEST_OUTLINE = 10_000_000
_CHUNK = 2_000_000


class Segmentations:
    """One row per annotation. Numbers lie in one array, so worker processes share them.

    Args:
        fields: Reports repairs and refusals.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
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

    def check(self, heights: NDArray[np.int64], widths: NDArray[np.int64], where: Callable[[int], str]) -> None:
        """Compares all rows with the sizes of their images; afterwards nothing can be added.

        Args:
            heights: Of each row's image.
            widths: The same.
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
        self._check_polygons(heights, widths, where)

    def _check_polygons(self, heights: NDArray[Any], widths: NDArray[Any], where: Callable[[int], str]) -> None:
        ends = np.where(self._last_part > 0, np.concatenate([[0], self._part_ends])[self._last_part], 0)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        rows = np.flatnonzero(self._kinds == _POLYGONS)
        reach = np.zeros(len(rows))
        step = max(1, int(_CHUNK * len(rows) / max(1, len(self._numbers))))
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            low, high = starts[some[0]], ends[some[-1]]
            # from each start to its end; what lies between two rows (run lengths) is every other result
            bounds = np.stack([starts[some], ends[some]], axis=1).ravel() - low
            numbers = np.append(np.abs(self._numbers[low:high]), 0.0)
            reach[first : first + step] = np.maximum.reduceat(numbers, bounds)[::2]
        for position in np.flatnonzero(~np.isfinite(reach)):
            self._refuse(int(rows[position]), "a polygon holds a coordinate that is not finite", where)
        far = rows[reach > _reach(heights[rows], widths[rows])]
        far = far[self._kinds[far] == _POLYGONS]
        self._far = set(far.tolist())
        for row in far.tolist():
            self._fields.findings.repaired(
                self._fields.path, "a polygon reaches far outside its image", "its corners are moved nearer", where(row)
            )
        for row in rows[(ends - starts)[rows] > _MANY].tolist():
            if (
                self._kinds[row] == _POLYGONS
                and self._outline(row, int(heights[row]), int(widths[row])) > _LONGEST_OUTLINE
            ):
                self._refuse(row, "the outline of a polygon is longer than any object's", where)

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
