"""COCO's segmentations (polygons, run lengths) as bitmaps, by pycocotools.

pycocotools is C code that trusts what it gets: coordinates that are not finite crash it, huge ones fill the memory, run
lengths that do not add up leave uninitialised memory in the mask. Nothing reaches it unchecked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from dyvision.data.coco_fields import NUMBERS, Fields, RefusedError, short
from dyvision.data.errors import DataError
from dyvision.text import one_line

MIN_POLYGON = 6  # three corners
#: names that exporters give to lists of coordinates
_POINT_LISTS = (("all_points_x", "all_points_y"), ("x", "y"))
_LARGEST_MASK = 2**31
_RUN_TEXT = frozenset(chr(code) for code in range(48, 112))


def decode_mask(segmentation: Any, height: int, width: int, name: str = "the segmentation") -> NDArray[np.uint8]:
    """Bitmap of one object.

    Args:
        segmentation: Polygons ``[[x, y, x, y, ...], ...]``, or run lengths ``{"counts": list or str, "size": [H, W]}``,
            as :class:`~dyvision.data.coco_segmentations.Segmentations` returns them.
        height: Of the image.
        width: Of the image.
        name: For messages.

    Returns:
        uint8 ``[height, width]`` of 0 and 1.

    Raises:
        DataError: If pycocotools cannot decode it.
    """
    try:
        if isinstance(segmentation, dict):
            run_lengths = segmentation
            if isinstance(segmentation["counts"], list):
                run_lengths = mask_api.frPyObjects(segmentation, height, width)
        else:
            run_lengths = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
        mask = mask_api.decode(run_lengths)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{name} is neither polygons nor run lengths ({one_line(error)}).") from error
    if mask.shape != (height, width):
        raise DataError(f"{name} is {mask.shape[0]}x{mask.shape[1]} (height x width), its image {height}x{width}.")
    return mask


def count_pixels(segmentation: Any, height: int, width: int) -> int:
    """Pixels that a segmentation, as :func:`decode_mask` takes it, covers; without making the bitmap."""
    run_lengths = segmentation
    if isinstance(segmentation, list):
        run_lengths = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        return sum(segmentation["counts"][1::2])
    return int(mask_api.area(run_lengths))


def clean(segmentation: Any, where: str, fields: Fields) -> list[list[float]] | dict[str, Any] | None:
    """What an odd segmentation means, with every repair reported.

    Returns:
        Polygons of at least three corners; run lengths ``{"size": [H, W] or None, "counts": list of int or str}``; or
        None where there is nothing that could be a mask.

    Raises:
        RefusedError: If it holds numbers that are none, or run lengths that cannot be decoded; already reported.
    """
    if isinstance(segmentation, dict):
        return _from_object(segmentation, where, fields)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    if all(isinstance(part, dict) for part in segmentation):
        return _from_objects(segmentation, where, fields)
    repairs: list[str] = []
    while len(segmentation) == 1 and _is_wrapped(segmentation[0]):
        segmentation = segmentation[0]
        repairs = ["'segmentation' is nested too deeply"]
    if _depth(segmentation) == 1:
        segmentation, repairs = [segmentation], ["'segmentation' is a flat list"]
    elif len(segmentation) > 1 and all(isinstance(part, list) and len(part) == 2 for part in segmentation):
        segmentation, repairs = [segmentation], ["'segmentation' is a list of points"]
    polygons = [_flat(part, where, fields, repairs) for part in segmentation]
    usable = [part for part in polygons if len(part) >= MIN_POLYGON]
    if usable and len(usable) < len(polygons):
        fields.findings.warned(
            fields.path, "'segmentation' has parts of fewer than three corners", "these parts are left out", where
        )
    if usable:
        for repair in dict.fromkeys(repairs):
            fields.findings.repaired(fields.path, repair, "read as polygons", where)
    return usable or None


def _is_wrapped(part: Any) -> bool:
    """Whether the only part is a list of polygons itself, not one polygon of numbers or of points."""
    depth = _depth(part)
    return depth > 2 or (depth == 2 and any(isinstance(item, list) and len(item) >= MIN_POLYGON for item in part))


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list):
        lists = [item for item in value if isinstance(item, list)]
        depth, value = depth + 1, next((item for item in lists if item), lists[0] if lists else None)
    return depth


def _flat(part: Any, where: str, fields: Fields, repairs: list[str]) -> list[float]:
    """One polygon's numbers; an empty list if it is none."""
    if not isinstance(part, list):
        raise _refuse(fields, where, part, "a part of the segmentation is neither a polygon nor run lengths")
    if part and all(isinstance(point, (list, dict)) and len(point) == 2 for point in part):
        repairs.append("'segmentation' is a list of points")
        if not all(isinstance(point, list) or {"x", "y"} == point.keys() for point in part):
            raise _refuse(fields, where, part, "a point of the segmentation is not x and y")
        pairs = (point if isinstance(point, list) else (point["x"], point["y"]) for point in part)
        part = [value for pair in pairs for value in pair]
    if all(type(value) in NUMBERS for value in part):
        numbers = part
    else:
        numbers = [fields.number(value, "segmentation", where) for value in part]
        if None in numbers:
            raise _refuse(fields, where, part, "a polygon holds null")
    if len(numbers) % 2 and len(numbers) >= MIN_POLYGON:
        raise _refuse(fields, where, part, f"a polygon has {len(numbers)} numbers; expected x, y, x, y, ...")
    try:
        return [float(value) for value in numbers]
    except OverflowError:
        raise _refuse(fields, where, part, "a coordinate is out of range") from None


def _refuse(fields: Fields, where: str, value: Any, what: str) -> RefusedError:
    return fields.refuse(what, f"the segmentation of {where}, {short(value)}", "correct or remove it")


def _from_object(value: dict[str, Any], where: str, fields: Fields) -> list[list[float]] | dict[str, Any] | None:
    if "counts" not in value:
        for keys in _POINT_LISTS:
            xs, ys = value.get(keys[0]), value.get(keys[1])
            if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
                fields.findings.repaired(
                    fields.path, "'segmentation' is lists of x and of y", "read as a polygon", where
                )
                polygon = _flat([item for pair in zip(xs, ys, strict=True) for item in pair], where, fields, [])
                return [polygon] if len(polygon) >= MIN_POLYGON else None
        return None
    counts, size = value["counts"], value.get("size")
    if size is None:
        fields.findings.repaired(fields.path, "run lengths without 'size'", "the image's size is used", where)
    elif not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise _refuse(fields, where, value, "'size' is not [height, width]")
    if isinstance(counts, list):
        if not all(type(run) is int for run in counts):
            numbers = [fields.number(run, "counts", where) for run in counts]
            if not all(run is not None and run.is_integer() for run in numbers):
                raise _refuse(fields, where, value, "run lengths are not whole numbers")
            counts = [int(run) for run in numbers if run is not None]
        if not counts or min(counts) < 0 or sum(counts) >= _LARGEST_MASK:
            raise _refuse(fields, where, value, "run lengths are empty, negative or too large")
    elif not isinstance(counts, str) or run_lengths(counts) is None:
        raise _refuse(fields, where, value, "run lengths cannot be decoded")
    return {"size": size, "counts": counts}


def _from_objects(parts: list[dict[str, Any]], where: str, fields: Fields) -> Any:
    if all({"x", "y"} == part.keys() and type(part["x"]) in NUMBERS for part in parts):
        fields.findings.repaired(fields.path, "'segmentation' is a list of points", "read as polygons", where)
        polygon = _flat(list(parts), where, fields, [])
        return [polygon] if len(polygon) >= MIN_POLYGON else None
    cleaned = [_from_object(part, where, fields) for part in parts]
    polygons = [polygon for part in cleaned if isinstance(part, list) for polygon in part]
    codes = [part for part in cleaned if isinstance(part, dict)]
    if codes and not polygons:
        fields.findings.repaired(fields.path, "'segmentation' is a list of run lengths", "read as one mask", where)
        return codes[0] if len(codes) == 1 else _merge(codes, where, fields)
    if polygons and not codes:
        return polygons
    if polygons:
        raise _refuse(fields, where, parts, "the segmentation mixes polygons and run lengths")
    return None


def _merge(codes: list[dict[str, Any]], where: str, fields: Fields) -> dict[str, Any]:
    size = codes[0]["size"]
    for code in codes:
        if size is None or code["size"] != size or total_of(code["counts"]) != size[0] * size[1]:
            raise _refuse(fields, where, codes, "run lengths do not add up to their size, or differ in size")
    compressed = [mask_api.frPyObjects(code, *size) if isinstance(code["counts"], list) else code for code in codes]
    return {"size": size, "counts": mask_api.merge(compressed)["counts"].decode("ascii")}


def total_of(counts: list[int] | str) -> int:
    """Pixels that run lengths cover; -1 if they cannot be decoded."""
    if isinstance(counts, list):
        return sum(counts)
    runs = run_lengths(counts)
    return -1 if runs is None else int(runs.sum())


def run_lengths(text: str) -> NDArray[np.int64] | None:
    """Decodes COCO's compressed run lengths (``rleFrString`` in pycocotools' ``maskApi.c``), with checks that it lacks.

    Returns:
        The run lengths, zeros first; None if the text is no such code.
    """
    if not text or not _RUN_TEXT.issuperset(text):
        return None
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 0x20 == 0)
    if len(ends) == 0 or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    if int((ends - starts).max()) > 6:  # five bits each: more than any run has
        return None
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    negative = codes[ends] & 0x10 != 0
    values -= np.where(negative, np.int64(1) << (5 * (ends - starts + 1)), 0)
    # from the fourth on, each is the difference to the run two before it
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return None if values.min() < 0 else values
