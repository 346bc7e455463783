"""A trained task from its file, with the transforms that it was evaluated with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from dyvision import data as data_package
from dyvision.checkpoint_file import read_checkpoint
from dyvision.data.base import VisionDataModule
from dyvision.data.formats import get_data_format, list_data_formats
from dyvision.inference.predictor import Predictor
from dyvision.registry import missing_plugin, records_of
from dyvision.tasks.base import BaseTask
from dyvision.tasks.opening import open_task, task_class

#: the data format of each task, where a file names no other
_FORMATS = {"classification": "imagefolder", "segmentation": "cityscapes", "detection": "coco"}


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
    module = _open_data(content, path, trust) if data is None else data
    task = _open_task(path, trust)
    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = accelerator or torch.device("cpu")
    task = task.to(device).eval()
    task.predictor = Predictor(task, module)
    return task


def _content(path: Path) -> Mapping[str, Any]:
    """What the file says of its task and its data, as a checkpoint does."""
    if path.suffix.lower() != ".onnx":
        return read_checkpoint(path, mmap=True)
    from dyvision.tasks.exporting import ExportedTask

    exported = ExportedTask.read(path)
    return {"task": exported.task, "datamodule_hyper_parameters": exported.data}


def _open_task(path: Path, trust: Collection[str]) -> BaseTask:
    if path.suffix.lower() != ".onnx":
        return open_task(path, trust)
    from dyvision.tasks.exporting import load_exported

    return load_exported(path, trust)


def _open_data(content: Mapping[str, Any], path: Path, trust: Collection[str]) -> VisionDataModule:
    if not content["datamodule_hyper_parameters"]:
        raise ValueError(
            f"{path}: trained without a data module of dyvision, so its transforms are not known; give "
            "data=dyvision.data.ImageFolderDataModule(...) or the like"
        )
    records = [one for one in records_of(content.get("plugins")) if one["kind"] == "data format"]
    if records and records[-1]["name"] not in list_data_formats():
        raise missing_plugin(records[-1:], str(path))
    kind = get_data_format(records[-1]["name"] if records else _FORMATS[content["task"]])
    module = getattr(data_package, kind) if isinstance(kind, str) else kind
    return module.from_content(content, str(path), trust)
