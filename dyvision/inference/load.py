"""A trained task from its checkpoint, with the transforms that it was evaluated with."""

from __future__ import annotations

from collections.abc import Collection
from os import PathLike
from pathlib import Path

import torch

from dyvision import data, tasks
from dyvision.checkpoint_file import read_checkpoint
from dyvision.data.base import VisionDataModule
from dyvision.inference.predictor import Predictor
from dyvision.tasks import BaseTask

_TASKS: dict[str, type[BaseTask]] = {
    task.task: task for task in (tasks.ClassificationTask, tasks.SegmentationTask, tasks.DetectionTask)
}
_DATA: dict[str, type[VisionDataModule]] = {
    module.task: module for module in (data.ImageFolderDataModule, data.CityscapesDataModule, data.COCODataModule)
}


def load(
    path: str | PathLike[str],
    *,
    trust: Collection[str] = (),
    device: torch.device | str | None = None,
    data: VisionDataModule | None = None,
) -> BaseTask:
    """Open a checkpoint of a task, ready to predict.

    A checkpoint of any origin is safe to open: it is read as plain data, and may name only what dyvision knows.

    Args:
        path: The file that ``dyvision fit`` wrote, such as ``last.ckpt``.
        trust: Dotted names of classes that it may name although they are not dyvision's.
        device: Where to compute; the machine's accelerator by default if it has one, else the CPU.
        data: A data module whose transforms to predict with; by default that of the training. A checkpoint that was
            trained on data of one's own class needs it.

    Returns:
        The task, a ``LightningModule`` in evaluation mode; ``task.predict(images)`` is
        :meth:`dyvision.inference.Predictor.__call__`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of a task, is damaged, or names other code.
    """
    path = Path(path).expanduser()
    task, module = _open_checkpoint(path, trust, data)
    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = accelerator or torch.device("cpu")
    task = task.to(device).eval()
    task.predictor = Predictor(task, module)
    return task


def _open_checkpoint(
    path: Path, trust: Collection[str], module: VisionDataModule | None
) -> tuple[BaseTask, VisionDataModule]:
    content = read_checkpoint(path, mmap=True)
    kind = content.get("task")
    if kind not in _TASKS:
        found = f"of task {kind!r}" if kind else "of another project (it names no task of dyvision)"
        raise ValueError(
            f"{path}: {found}; expected one of {', '.join(_TASKS)}. A task of one's own class is opened by its "
            "load_from_checkpoint, and predicts with dyvision.inference.Predictor(task, data)"
        )
    if module is None:
        if not content["datamodule_hyper_parameters"]:
            raise ValueError(
                f"{path}: trained without a data module of dyvision, so its transforms are not known; give "
                "data=dyvision.data.ImageFolderDataModule(...) or the like"
            )
        module = _DATA[kind].load_from_checkpoint(path, trust=trust)
    return _TASKS[kind].load_from_checkpoint(path, map_location="cpu", trust=trust), module
