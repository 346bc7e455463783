"""COCO's segmentations (polygons, run lengths) as bitmaps, by pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from dyvision.data.errors import DataError

_MIN_POLYGON = 6  # three corners


def has_mask(segmentation: Any) -> bool:
    """Whether a segmentation can become a bitmap: a run-length dict, or a polygon of at least three corners."""
    if isinstance(segmentation, dict):
        return "counts" in segmentation and "size" in segmentation
    return isinstance(segmentation, list) and any(
        isinstance(part, list) and len(part) >= _MIN_POLYGON for part in segmentation
    )


def decode_mask(segmentation: Any, height: int, width: int, name: str = "the segmentation") -> NDArray[np.uint8]:
    """Bitmap of one object.

    Args:
        segmentation: Polygons ``[[x, y, x, y, ...], ...]``, or run lengths ``{"counts": list or str, "size": [H, W]}``.
        height: Of the image.
        width: Of the image.
        name: For messages.

    Returns:
        uint8 ``[height, width]`` of 0 and 1.

    Raises:
        DataError: If it cannot be decoded, or is of another size than the image.
    """
    try:
        if isinstance(segmentation, dict):
            run_lengths = segmentation
            if isinstance(segmentation["counts"], list):
                run_lengths = mask_api.frPyObjects(segmentation, *segmentation["size"])
        else:
            parts = [part for part in segmentation if len(part) >= _MIN_POLYGON]
            run_lengths = mask_api.merge(mask_api.frPyObjects(parts, height, width))
        mask = mask_api.decode(run_lengths)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{name} is neither polygons nor run lengths ({' '.join(str(error).split())}).") from error
    if mask.shape != (height, width):
        raise DataError(f"{name} is {mask.shape[0]}x{mask.shape[1]} (height x width), its image {height}x{width}.")
    return mask
