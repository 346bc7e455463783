"""Two operators that choose detections, and what an ONNX file has in their place.

Plain operations cannot: how many boxes are kept depends on the image, and a graph for any batch has one size for all of
them. In PyTorch they are what torchvision's detectors do, image by image, ties included; in a file ``TopK``, and one
``NonMaxSuppression`` for the whole batch. torchvision's own ``nms`` would be traced once per image of the example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from dyvision.export._packages import need

#: score of no candidate; those of candidates are probabilities
NONE = -1.0


# the types are spelt out: torch 2.6 does not read all of them off annotations
@torch.library.custom_op(
    "dyvision::top_scores", mutates_args=(), schema="(Tensor scores, int count, float threshold) -> (Tensor, Tensor)"
)
def top_scores(scores: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """The best scores of each row that are above a threshold.

    Args:
        scores: Probabilities ``[R, N]``.
        count: How many are chosen, at most N.
        threshold: Scores have to be above it.

    Returns:
        Scores ``[R, count]``, best first and -1 where there are no more, and their places ``[R, count]`` in the row.
    """
    values = scores.new_full((len(scores), count), NONE)
    places = torch.zeros(len(scores), count, dtype=torch.int64, device=scores.device)
    for row, value, place in zip(scores, values, places, strict=True):
        above = torch.where(row > threshold)[0]
        best, order = row[above].topk(min(count, len(above)))
        value[: len(best)], place[: len(best)] = best, above[order]
    return values, places


@top_scores.register_fake
def _(scores: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    shape = (scores.shape[0], count)
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


@torch.library.custom_op(
    "dyvision::nms_by_class",
    mutates_args=(),
    schema="(Tensor boxes, Tensor scores, Tensor labels, int num_classes, int groups, float iou_threshold, int count)"
    " -> (Tensor, Tensor)",
)
def nms_by_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, num_classes: int, groups: int, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression among the boxes of each class of each image.

    Args:
        boxes: ``[B, M, 4]``, xyxy.
        scores: ``[B, M]``; -1 for what is no candidate.
        labels: ``[B, M]``, from 0.
        num_classes: Number of classes.
        groups: The candidates are so many groups of equal size, no two of which have a class in common.
        iou_threshold: Of two boxes with a larger IoU the one with the lower score goes.
        count: How many are kept, at most M.

    Returns:
        Places ``[B, count]`` of those kept, best first and 0 where there are no more, and their number ``[B]``.
    """
    places = torch.zeros(len(boxes), count, dtype=torch.int64, device=boxes.device)
    numbers = []
    for box, score, label, place in zip(boxes, scores, labels, places, strict=True):
        candidates = torch.where(score > NONE)[0]
        kept = batched_nms(box[candidates], score[candidates], label[candidates], iou_threshold)[:count]
        place[: len(kept)] = candidates[kept]
        numbers.append(len(kept))
    return places, torch.tensor(numbers, dtype=torch.int64, device=boxes.device)


@nms_by_class.register_fake
def _(
    boxes: Tensor, scores: Tensor, labels: Tensor, num_classes: int, groups: int, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    return labels.new_empty(boxes.shape[0], count), labels.new_empty(boxes.shape[0])


def translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export``: the operators and their ONNX form."""
    operators = torch.ops.dyvision
    return {operators.top_scores.default: _top_scores, operators.nms_by_class.default: _nms_by_class}


def _top_scores(scores: Any, count: int, threshold: float) -> Any:
    op = need("onnxscript")[0].opset18
    none = op.CastLike(op.Constant(value_float=NONE), scores)
    above = op.Greater(scores, op.CastLike(op.Constant(value_float=threshold), scores))
    return op.TopK(op.Where(above, scores, none), op.Constant(value_ints=[count]), axis=-1)


def _nms_by_class(
    boxes: Any, scores: Any, labels: Any, num_classes: int, groups: int, iou_threshold: float, count: int
) -> Any:
    op = need("onnxscript")[0].opset18
    floating, integer = 1, 7  # what ONNX calls float32 and int64
    none, second = op.Constant(value_float=NONE), op.Constant(value_ints=[1])
    size = int(scores.shape[1]) // groups
    # a group is what an image is for the operator: its boxes meet none of another class
    boxes = op.Reshape(op.Cast(boxes, to=floating), op.Constant(value_ints=[-1, size, 4]))
    rows = op.Reshape(op.Cast(scores, to=floating), op.Constant(value_ints=[-1, size]))
    by_class = op.Unsqueeze(rows, second)
    if groups == 1 and num_classes > 1:
        numbers = op.Range(*(op.Constant(value_int=number) for number in (0, num_classes, 1)))
        own = op.Equal(op.Unsqueeze(labels, second), op.Reshape(numbers, op.Constant(value_ints=[1, -1, 1])))
        by_class = op.Where(own, by_class, none)
    chosen = op.NonMaxSuppression(
        boxes,
        by_class,
        op.Constant(value_ints=[count]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),  # candidates are above it
    )
    place = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)  # without the class
    kept = op.ScatterND(op.Expand(none, op.Shape(rows)), place, op.GatherND(rows, place))
    kept = op.Reshape(kept, op.Constant(value_ints=[-1, size * groups]))
    best, places = op.TopK(kept, op.Constant(value_ints=[count]), axis=-1)
    found = op.Cast(op.Greater(best, none), to=integer)
    return op.Mul(places, found), op.ReduceSum(found, second, keepdims=0)
