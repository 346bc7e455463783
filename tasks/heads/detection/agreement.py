"""Whether detections follow from a head's predictions, as far as rounding leaves that open.

Two programs that compute the same choose other detections where two scores, or an IoU and its threshold, are equal up
to rounding, and one such choice changes the next ones. So lists of detections are not compared. Non-maximum suppression
has exactly one result for given predictions, and whether a list is that result can be asked of each candidate alone: it
is in the list, or a better one of its class in the list overlaps it, or the list is full of better ones. With a slack
in each of these comparisons every result that rounding explains passes, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou


class Detections(NamedTuple):
    """Of one image: ``boxes [D, 4]``, ``scores [D]``, ``labels [D]``, and how many of the D there are."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    number: Tensor


class Candidates(NamedTuple):
    """Of one image: what may have been chosen from, ``boxes [M, 4]`` and ``[M]`` each, and what certainly was."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    certain: Tensor

    @classmethod
    def near(
        cls,
        groups: Sequence[Tensor],
        by_class: bool,
        decode: Callable[[Tensor], Tensor],
        threshold: float,
        limit: int,
        slack: float,
    ) -> Candidates:
        """The candidates of one image.

        Args:
            groups: Scores ``[anchors, classes]`` of each level, or ``[anchors]`` of each class.
            by_class: Whether the groups are classes.
            decode: From numbers of anchors ``[M]`` to their boxes.
            threshold: Candidates have a higher score.
            limit: Most candidates of a group.
            slack: Relative difference by which scores may differ.
        """
        rows, labels, scores, certain, start = [], [], [], [], 0
        unit = max((float(group.max()) for group in groups if group.numel()), default=0.0)
        for number, group in enumerate(groups):
            flat = group.flatten()
            # the best one that is not among them
            cut = float(flat.topk(limit + 1).values[-1]) if limit < len(flat) else 0.0
            cut = max(cut, threshold)
            index = torch.where(flat > cut - slack * unit)[0]
            num_classes = 1 if by_class else group.shape[1]
            rows.append(index // num_classes + start)
            labels.append(torch.full_like(index, number) if by_class else index % num_classes)
            scores.append(flat[index])
            certain.append(flat[index] > cut + slack * unit)
            start += 0 if by_class else len(group)
        return cls(decode(torch.cat(rows)), torch.cat(scores), torch.cat(labels), torch.cat(certain))


def largest_disagreement(
    found: Detections, candidates: Candidates, iou_threshold: float, slack: float, first_label: int
) -> float:
    """How far the detections of one image are from the candidates they come from.

    Args:
        found: The detections.
        candidates: The candidates.
        iou_threshold: Of two boxes of one class with a larger IoU the one with the lower score is dropped.
        slack: Relative difference by which numbers may differ.
        first_label: Label of class 0.

    Returns:
        The largest difference of a score or of a box, relative to the largest; infinite if the list is not what
        non-maximum suppression of the candidates gives.
    """
    count, wrong = int(found.number), float("inf")
    boxes, scores, labels = found.boxes[:count].double(), found.scores[:count].double(), found.labels[:count]
    if not 0 <= count <= len(found.scores) or any(bool(part[count:].any()) for part in found[:3]):
        return wrong
    theirs, values = candidates.boxes.double(), candidates.scores.double()
    unit = float(values.max()) if len(values) else 1.0
    length = float(theirs.abs().max()) if len(theirs) else 1.0
    if (scores.diff() > slack * unit).any():
        return wrong
    same_class = labels[:, None] == candidates.labels + first_label
    difference = torch.maximum(
        (scores[:, None] - values).abs() / unit, (boxes[:, None] - theirs).abs().amax(-1) / max(length, 1.0)
    ).masked_fill(~same_class, wrong)
    if count and not len(theirs):
        return wrong
    again = box_iou(boxes, boxes) > iou_threshold + slack
    if (again & (labels[:, None] == labels)).fill_diagonal_(False).any():
        return wrong
    is_it = difference <= slack
    suppressed = box_iou(boxes, theirs) > iou_threshold - slack
    suppressed &= same_class & (scores[:, None] >= values - slack * unit)
    explained = (is_it | suppressed).any(0)
    if count == len(found.scores):
        explained |= values <= scores[-1] + slack * unit
    if (candidates.certain & ~explained).any():
        return wrong
    return float(difference.amin(1).max()) if count else 0.0
