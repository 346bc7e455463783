"""Heads by name: what makes a task of a backbone's feature maps."""

from __future__ import annotations

__all__ = ("list_heads",)


def list_heads(task: str) -> list[str]:
    """Names for ``head`` of a task.

    Args:
        task: ``"segmentation"`` or ``"detection"`` (a classifier's head is part of its network).

    Raises:
        ValueError: If the task has no heads.
    """
    if task == "segmentation":
        from dyvision.tasks.heads.segmentation import list_segmentation_heads

        return list_segmentation_heads()
    if task == "detection":
        from dyvision.tasks.heads.detection import list_detection_heads

        return list_detection_heads()
    raise ValueError(f"task {task!r} has no heads; choose from detection, segmentation")
