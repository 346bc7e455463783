"""Top-k accuracy over a whole data set, per class, and which classes were taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from dyvision.tasks.metrics.confusion import count_pairs, unique_names

#: a matrix of more classes than this would take more memory than the network (ImageNet-21k: 3.8 GB)
MOST_CONFUSED_CLASSES = 2000


class TopKAccuracy(Metric):
    """Share of samples whose class is among the k highest logits; higher is better.

    Counts are integers summed over batches and processes, so the result does not depend on how the samples were split.
    With fewer than k classes, k is the number of classes.

    Args:
        num_classes: Number of classes.
        top_k: The values of k; ``compute`` names them ``top1``, ``top5``.
        class_names: Names of the classes; ``0``, ``1``, ... by default.

    Attributes:
        confusion: int64 ``[num_classes, num_classes]``: row = label, column = most probable class. Without entries for
            more than ``MOST_CONFUSED_CLASSES`` classes.
        last_confusion: The matrix of the last ``compute``, of all processes.
        per_class: After ``compute``: class name -> ``accuracy`` (NaN for a class without samples) and ``images``.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor
    confusion: Tensor

    def __init__(
        self, num_classes: int, top_k: Sequence[int] = (1, 5), class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.top_k = tuple(top_k)
        self.class_names = unique_names(num_classes, class_names)
        self.per_class: dict[str, dict[str, float]] = {}
        self.last_confusion: Tensor | None = None
        side = num_classes if num_classes <= MOST_CONFUSED_CLASSES else 0
        self.add_state("correct", torch.zeros(len(self.top_k), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("confusion", torch.zeros(side, side, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Count a batch.

        Args:
            logits: ``[B, num_classes]``.
            label: int64 ``[B]``.
        """
        highest = logits.topk(min(max(self.top_k), self.num_classes), dim=1).indices
        hits = highest == label[:, None]
        self.correct += torch.stack([hits[:, :k].any(dim=1).sum() for k in self.top_k])
        self.total += len(label)
        if len(self.confusion):
            self.confusion += count_pairs(label, highest[:, 0], self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """``top1``, ``top5`` in 0..1; NaN if there were no samples."""
        share = self.correct.float() / self.total
        if len(self.confusion):
            matrix = self.confusion.cpu()
            self.last_confusion = matrix.clone()
            images = matrix.sum(1)
            accuracy = matrix.diagonal().double() / images
            self.per_class = {
                name: {"accuracy": float(accuracy[index]), "images": int(images[index])}
                for index, name in enumerate(self.class_names)
            }
        return {f"top{k}": share[index] for index, k in enumerate(self.top_k)}
