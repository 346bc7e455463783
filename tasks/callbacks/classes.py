"""Numbers, names and colours of the classes, as predictions are written and drawn with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dyvision.visualize import palette


class ShownClasses(NamedTuple):
    """The classes of a task.

    Attributes:
        ids: The data set's own numbers.
        names: Names, or the numbers where there are none.
        colors: ``[r, g, b]`` of each.
    """

    ids: Sequence[int]
    names: Sequence[str]
    colors: Sequence[Sequence[int]]


def shown_classes(hparams: Mapping[str, Any], count: int, first: int = 0) -> ShownClasses:
    """What a task's hyperparameters (``class_ids``, ``class_names``, ``class_colors``) say of its classes.

    Args:
        hparams: Of the task; each of the three may be missing.
        count: Number of classes.
        first: Number of the first class without ``class_ids``: detection counts from 1.
    """
    ids = hparams.get("class_ids") or range(first, first + count)
    names = hparams.get("class_names") or [str(class_id) for class_id in ids]
    return ShownClasses(ids, names, hparams.get("class_colors") or palette(count))
