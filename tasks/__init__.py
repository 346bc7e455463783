"""Lightning tasks: classification, segmentation and detection with the same backbones.

The names below are imported on first use, so that asking for one task does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyvision.tasks.base import BaseTask
    from dyvision.tasks.classification import ClassificationTask
    from dyvision.tasks.detection import DetectionTask
    from dyvision.tasks.segmentation import SegmentationTask

_ORIGIN = {
    "BaseTask": "base",
    "ClassificationTask": "classification",
    "DetectionTask": "detection",
    "SegmentationTask": "segmentation",
}

__all__ = ("BaseTask", "ClassificationTask", "DetectionTask", "SegmentationTask")


def __getattr__(name: str) -> Any:
    if name in _ORIGIN:
        return getattr(import_module(f"{__name__}.{_ORIGIN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGIN})
