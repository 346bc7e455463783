"""What whole columns of boxes tell: fractions, corners in place of sizes, objects outside or listed twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyvision.data.coco_fields import Fields
from dyvision.data.coco_table import AnnotationTable

_LEFT_OUT = "left out of training; evaluation counts them as pycocotools does"
#: share of boxes that have to look like corners
_MOST, _MANY = 0.99, 0.2
_FEWEST = 5


def clip_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Boxes x, y, width, height as xyxy inside their images of ``sizes`` (height, width)."""
    low = np.maximum(boxes[:, :2], 0.0)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes[:, ::-1])
    return np.concatenate([low, high], axis=1)


def check_boxes(
    table: AnnotationTable,
    owners: NDArray[np.int64],
    sizes: NDArray[np.int64],
    labels: NDArray[np.int64],
    good: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Looks at all boxes of a file.

    Args:
        table: The sealed annotations.
        owners: Position of each one's image.
        sizes: int64 ``[N, 2]``, height and width of its image.
        labels: Its category.
        good: Rows that were not refused.

    Returns:
        bool ``[N]``: the rows to train on.

    Raises:
        DataError: If no box is as large as a pixel.
    """
    boxes, fields = table.boxes, table.fields
    objects = good & ~table.crowd

    _check_fractions(table, objects, fields)
    _check_corners(table, sizes, objects, fields)
    _check_doubles(table, owners, labels, good, fields)
    empty = objects & (boxes[:, 2:] <= 0).any(axis=1)
    clipped = clip_boxes(boxes, sizes)
    # sides that vanish beside x or y; told as small already
    nothing = objects & ~empty & (boxes[:, :2] + boxes[:, 2:] == boxes[:, :2]).any(axis=1)
    outside = objects & ~empty & ~nothing & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    trained = objects & ~empty & ~nothing & ~outside
    # official files have boxes that reach over the border by rounding only
    stated = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    over = trained & (np.abs(clipped - stated) > 1).any(axis=1)
    for rows, what, training in (
        (empty, "boxes of zero or negative size", _LEFT_OUT),
        (outside, "boxes outside their image", _LEFT_OUT),
        (
            over,
            "boxes reaching over the border of their image",
            "clipped for training, not for evaluation",
        ),
    ):
        _report(table, rows, what, training, fields)
    return trained


def _check_fractions(table: AnnotationTable, objects: NDArray[np.bool_], fields: Fields) -> None:
    boxes = table.boxes
    tiny = objects & (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, 2:] <= 1).all(axis=1)
    fractions = tiny & (boxes[:, :2] <= 1).all(axis=1) & (boxes[:, :2] >= 0).all(axis=1)
    count = int(fractions.sum())
    small = objects & ~fractions & (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, 2:] < 0.5).any(axis=1)
    _report(table, small, "boxes of less than half a pixel", "left out of training", fields)
    if count and count == int(objects.sum()):
        fields.findings.refused_because(
            fields.path,
            "every box is smaller than one pixel; are these fractions of the image? COCO's boxes are in pixels",
            "multiply x and width by the width of the image, y and height by its height",
        )  # fmt: skip
    elif count:
        _report(
            table, fractions, "boxes smaller than one pixel; fractions of the image? COCO's boxes are in pixels",
            "left out of training below half a pixel", fields,
        )  # fmt: skip


def _check_corners(
    table: AnnotationTable, sizes: NDArray[np.int64], objects: NDArray[np.bool_], fields: Fields
) -> None:
    """Files with x1, y1, x2, y2: nearly all boxes fit so, and many reach over the border otherwise."""
    rows = np.flatnonzero(objects)
    if len(rows) < _FEWEST:
        return
    boxes, limit = table.boxes[rows], sizes[rows][:, ::-1] + 1.0
    fit = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limit) & (boxes[:, :2] >= -1)).all(axis=1)
    over = (boxes[:, :2] + boxes[:, 2:] > limit).any(axis=1)
    if fit.mean() >= _MOST and over.mean() >= _MANY:
        fields.findings.warned(
            fields.path, "the boxes look like [x1, y1, x2, y2]",
            "read as COCO's [x, y, width, height]; convert the file",
            f"{int(over.sum())} of {len(rows)} reach over the border so",
        )  # fmt: skip


def _check_doubles(
    table: AnnotationTable,
    owners: NDArray[np.int64],
    labels: NDArray[np.int64],
    good: NDArray[np.bool_],
    fields: Fields,
) -> None:
    columns = np.concatenate([owners[:, None], labels[:, None], table.boxes.view(np.int64)], axis=1).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, columns.shape[1], dtype=np.uint64) | np.uint64(1)
    codes = ((columns ^ (columns >> np.uint64(32))) * factors).sum(axis=1, dtype=np.uint64)
    rows = np.flatnonzero(good)
    _, first, inverse = np.unique(codes[rows], return_index=True, return_inverse=True)
    later = np.flatnonzero(first[inverse] != np.arange(len(rows)))
    equal = (columns[rows[later]] == columns[rows[first[inverse[later]]]]).all(axis=1)
    doubles = np.zeros(len(good), dtype=np.bool_)
    doubles[rows[later[equal]]] = True
    _report(table, doubles, "objects listed twice: the same image, category and box", "each is counted", fields)


def _report(table: AnnotationTable, rows: Any, what: str, training: str, fields: Fields) -> None:
    count = int(rows.sum())
    if count:
        # the first few are named, the rest is a number
        for row in np.flatnonzero(rows)[:3].tolist():
            fields.findings.warned(fields.path, what, training, table.name(row))
        if count > 3:
            fields.findings.warned(fields.path, what, training, count=count - 3)
