"""The mean of a loss over samples, exact for unequal batches and several processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    """Mean of values weighted by how many samples each stands for.

    Unlike torchmetrics' ``MeanMetric`` it does not drop values that are not finite: a NaN loss shows as NaN.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: float | Tensor = 1.0) -> None:
        """Add ``value``, the mean over ``weight`` samples; no effect if ``weight`` is 0."""
        if weight > 0:
            self.total += value.detach().float() * weight
            self.weight += weight

    def compute(self) -> Tensor:
        """The mean so far; NaN if there was nothing."""
        return self.total / self.weight
