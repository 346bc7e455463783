"""How many answers of two files are the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torchvision.ops import box_iou


def share_of_equal_answers(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float | None:
    """Share of equal classes of images or pixels, or of detections found again.

    Args:
        expected: Outputs by name: one of ``[B, C]`` or ``[B, C, H, W]`` numbers per class or ``[B, H, W]`` classes, or
            ``boxes`` ``[B, D, 4]``, ``labels`` ``[B, D]`` and ``count`` ``[B]``.
        found: Outputs of the other file.

    Returns:
        The share, 1 where there was nothing to find; None for other outputs.
    """
    if {"boxes", "labels", "count"} <= expected.keys():
        return _detections_found(expected, found)
    if len(expected) != 1:
        return None
    ((name, right),) = expected.items()
    if not right.dtype.is_floating_point:
        return float((right == found[name]).float().mean())
    if right.dim() not in (2, 4):
        return None
    return float((right.argmax(1) == found[name].argmax(1)).float().mean())


def _detections_found(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    total = again = 0
    for number, (count, other) in enumerate(zip(expected["count"].tolist(), found["count"].tolist(), strict=True)):
        total += count
        if count and other:
            overlap = box_iou(expected["boxes"][number, :count], found["boxes"][number, :other]) >= 0.5
            same = expected["labels"][number, :count, None] == found["labels"][number, :other]
            again += int((overlap & same).any(1).sum())
    return again / total if total else 1.0
