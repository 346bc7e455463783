"""Which classes were taken for which: what the metrics of classification and segmentation count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def count_pairs(label: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix of a batch.

    Args:
        label: Classes from 0, any shape.
        prediction: The same shape.
        num_classes: Number of classes.

    Returns:
        int64 ``[num_classes, num_classes]``: row = label, column = prediction.
    """
    pairs = torch.bincount(label.flatten() * num_classes + prediction.flatten(), minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def unique_names(num_classes: int, names: Sequence[str] | None) -> list[str]:
    """Names of classes, different ones for classes of the same name, since results are stored by name."""
    given = list(names) if names else [str(index) for index in range(num_classes)]
    return [name if given.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(given)]
