"""A trained task from its file, with the transforms that it was evaluated with."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from dyvision.checkpoint_file import read_checkpoint
from dyvision.data.base import VisionDataModule
from dyvision.data.opening import open_data
from dyvision.inference.predictor import Predictor
from dyvision.tasks.base import BaseTask
from dyvision.tasks.opening import open_task, task_class


def load(
    path: str | PathLike[str],
    *,
    trust: Collection[str] = (),
    device: torch.device | str | None = None,
    data: VisionDataModule | None = None,
) -> BaseTask:
    """Open a checkpoint of a task, or an ONNX file of one, ready to predict.

    A file of any origin is safe to open: it is read as plain data, and may name only what dyvision knows.

    Args:
        path: What ``dyvision fit`` wrote, such as ``last.ckpt``, or ``dyvision export``: ``.onnx`` is run by ONNX
            Runtime.
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
    content = _content(path)
    try:
        task_class(content.get("task"), str(path))
    except ValueError as error:
        raise ValueError(
            f"{error}. A task of one's own class is opened by its load_from_checkpoint, and predicts with "
            "dyvision.inference.Predictor(task, data)"
        ) from error
    if data is None:
        data = _open_data(path, content, trust)
    task = _open_task(path, trust)
    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = accelerator or torch.device("cpu")
    task = task.to(device).eval()
    task.predictor = Predictor(task, data)
    return task


def _open_data(path: Path, content: Mapping[str, Any], trust: Collection[str]) -> VisionDataModule:
    """The data module that the file describes."""
    exported = content.get("exported")
    if exported is not None:  # knows no data set, and needs none
        data = open_data(content["task"], content, str(path), trust, root=os.devnull)
        exported.check_described(data.hparams, {})
        return data
    if not content["datamodule_hyper_parameters"]:
        raise ValueError(
            f"{path}: trained without a data module of dyvision, so its transforms are not known; give "
            "data=dyvision.data.ImageFolderDataModule(...) or the like"
        )
    return open_data(content["task"], content, str(path), trust)


def _content(path: Path) -> Mapping[str, Any]:
    """What the file says of its task and its data, as a checkpoint does."""
    if path.suffix.lower() != ".onnx":
        return read_checkpoint(path, mmap=True)
    from dyvision.tasks.exporting import ExportedTask

    exported = ExportedTask.read(path)
    return {
        "task": exported.task,
        "datamodule_hyper_parameters": exported.data,
        "plugins": exported.plugins,
        "exported": exported,
    }


def _open_task(path: Path, trust: Collection[str]) -> BaseTask:
    if path.suffix.lower() != ".onnx":
        return open_task(path, trust)
    from dyvision.tasks.exporting import load_exported

    return load_exported(path, trust)
