"""Top-k accuracy over a whole data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class TopKAccuracy(Metric):
    """Share of samples whose class is among the k highest logits; higher is better.

    Counts are integers summed over batches and processes, so the result does not depend on how the samples were split.
    With fewer than k classes, k is the number of classes.

    Args:
        num_classes: Number of classes.
        top_k: The values of k; ``compute`` names them ``top1``, ``top5``.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, num_classes: int, top_k: Sequence[int] = (1, 5)) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.top_k = tuple(top_k)
        self.add_state("correct", torch.zeros(len(self.top_k), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

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

    def compute(self) -> dict[str, Tensor]:
        """``top1``, ``top5`` in 0..1; NaN if there were no samples."""
        share = self.correct.float() / self.total
        return {f"top{k}": share[index] for index, k in enumerate(self.top_k)}
