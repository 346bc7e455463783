"""Mean intersection over union from one confusion matrix of the whole data set: Cityscapes' protocol."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from dyvision.tasks.metrics.confusion import count_pairs, unique_names


class SegmentationMetrics(Metric):
    """mIoU, IoU per class and pixel accuracy; higher is better.

    One matrix of pixel counts is accumulated over all images and all processes, as in Cityscapes' evaluation script and
    in mmseg; it is no mean over images or batches. A class that neither occurs in the labels nor was predicted has no
    IoU and does not enter the mean; one that was only predicted counts with 0.

    Args:
        num_classes: Number of classes.
        class_names: Their names, for the names of the results; ``0``, ``1``, ... by default.
        ignore_index: Label of pixels that do not count.

    Attributes:
        confusion: int64 ``[num_classes, num_classes]``: row = label, column = prediction.
        last_confusion: The matrix of the last ``compute``, of all processes.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int, class_names: Sequence[str] | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_names = unique_names(num_classes, class_names)
        self.ignore_index = ignore_index
        self.last_confusion: Tensor | None = None
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", empty, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            prediction: Class indices, any shape.
            mask: Labels of the same shape; pixels with ``ignore_index`` do not count.

        Raises:
            ValueError: If the shapes differ or a label is no class.
        """
        if prediction.shape != mask.shape:
            raise ValueError(f"the prediction is {list(prediction.shape)}, the mask {list(mask.shape)}")
        labelled = mask != self.ignore_index
        label, predicted = mask[labelled].long(), prediction[labelled].long()
        check_labels(label, self.num_classes, self.ignore_index)
        self.confusion += count_pairs(label, predicted, self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """``mIoU``, ``pixel_accuracy`` and ``IoU/<class>`` in 0..1; NaN where there is nothing to measure."""
        self.last_confusion = self.confusion.cpu().clone()
        matrix = self.last_confusion.double()
        hits = matrix.diagonal()
        iou = hits / (matrix.sum(0) + matrix.sum(1) - hits)
        result = {"mIoU": iou.nanmean(), "pixel_accuracy": hits.sum() / matrix.sum()}
        result |= {f"IoU/{name}": iou[index] for index, name in enumerate(self.class_names)}
        return {name: value.to(self.confusion.device, torch.float32) for name, value in result.items()}


def check_labels(mask: Tensor, num_classes: int, ignore_index: int, paths: Sequence[str] = ()) -> None:
    """Check the values of label maps.

    Args:
        mask: ``[B, H, W]``, or any shape without ``paths``.
        num_classes: Number of classes.
        ignore_index: Label of pixels that do not count.
        paths: File of each image, for the message.

    Raises:
        ValueError: If a value is neither a class nor ``ignore_index``.
    """
    wrong = ((mask < 0) | (mask >= num_classes)) & (mask != ignore_index)
    if not wrong.any():
        return
    position = tuple(wrong.nonzero()[0].tolist())
    where = f" of {paths[position[0]]}" if paths else ""
    raise ValueError(
        f"the label map{where} has the value {int(mask[position])}; expected 0 to {num_classes - 1}, or "
        f"ignore_index={ignore_index}"
    )
