"""A data module of any kind from the file of its task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dyvision import data
from dyvision.data.base import VisionDataModule
from dyvision.data.formats import get_data_format, recorded_format

#: the data format of each task, where nothing says another
_OF_TASKS = {"classification": "imagefolder", "detection": "coco", "segmentation": "cityscapes"}


def open_data(
    task: str, content: Mapping[str, Any], where: str, trust: Collection[str] = (), **kwargs: Any
) -> VisionDataModule:
    """Build the data module that a file of a task describes; safe for a file of any origin.

    Args:
        task: Name of the task.
        content: Of the file: ``datamodule_hyper_parameters`` and, if there are any, ``plugins``.
        where: The file, for messages.
        trust: As of ``load_from_checkpoint``.
        **kwargs: Arguments that replace the file's.

    Raises:
        ValueError: If the format or a transform is code that nobody has named here, or an argument is wrong.
    """
    kind = get_data_format(recorded_format(content.get("plugins"), where) or _OF_TASKS[task])
    if isinstance(kind, str):
        kind = getattr(data, kind)
    module: VisionDataModule = kind.from_content(content, where, trust, **kwargs)
    return module
