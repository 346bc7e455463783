"""A task of any kind from its checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from os import PathLike
from typing import Any

from dyvision.checkpoint_file import read_checkpoint
from dyvision.tasks.base import BaseTask
from dyvision.tasks.classification import ClassificationTask
from dyvision.tasks.detection import DetectionTask
from dyvision.tasks.segmentation import SegmentationTask
from dyvision.text import printable

#: dyvision's own tasks by name
TASK_CLASSES: dict[str, type[BaseTask]] = {
    kind.task: kind for kind in (ClassificationTask, SegmentationTask, DetectionTask)
}


def task_class(name: Any, where: str) -> type[BaseTask]:
    """The class of a task by its name.

    Args:
        name: What a file says.
        where: The file, for messages.

    Raises:
        ValueError: If there is none of that name.
    """
    if name in TASK_CLASSES:
        return TASK_CLASSES[name]
    found = f"of task '{printable(str(name))}'" if name else "of another project (it names no task of dyvision)"
    raise ValueError(f"{where}: {found}; expected one of {', '.join(TASK_CLASSES)}")


def open_task(path: str | PathLike[str], trust: Collection[str] = ()) -> BaseTask:
    """Build the task of a checkpoint on the CPU; safe for a checkpoint of any origin.

    Args:
        path: The file.
        trust: As of ``load_from_checkpoint``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of a task of dyvision's, is damaged, or names other code.
    """
    kind = task_class(read_checkpoint(path, mmap=True).get("task"), str(path))
    return kind.load_from_checkpoint(path, map_location="cpu", trust=trust)
