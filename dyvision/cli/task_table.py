"""The tasks that the command line has, and what belongs to each."""

from __future__ import annotations

from dataclasses import dataclass

from dyvision.text import did_you_mean


@dataclass(frozen=True)
class TaskEntry:
    """One task. Classes are named, not imported: the command line starts without them.

    Attributes:
        name: Name of the task, as in ``--task``.
        model: Its LightningModule, in ``dyvision.tasks``.
        data: The data module it has by default, in ``dyvision.data``.
        sample_format: Folder of the sample data that this data module reads.
        metric: What the quickstart shows, as it is logged.
        metric_label: The same for a table.
    """

    name: str
    model: str
    data: str
    sample_format: str
    metric: str
    metric_label: str


#: by name, in the order of the quickstart
TASKS: dict[str, TaskEntry] = {
    entry.name: entry
    for entry in (
        TaskEntry("classification", "ClassificationTask", "ImageFolderDataModule", "imagenet", "val/top1", "top-1"),
        TaskEntry("segmentation", "SegmentationTask", "CityscapesDataModule", "cityscapes", "val/mIoU", "mIoU"),
        TaskEntry("detection", "DetectionTask", "COCODataModule", "coco", "val/box_AP50", "box AP50"),
    )
}


def check_task(name: object) -> str:
    """The name of a task.

    Raises:
        ValueError: If there is none of that name, with the closest ones.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"unknown task {name!r}{did_you_mean(str(name), TASKS)}; tasks are {', '.join(TASKS)}")
    return name
