"""Lightning tasks: classification, segmentation and detection with the same backbones.

The names below are imported on first use, so that asking for one task does not load the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyvision.lazy import lazy_names

if TYPE_CHECKING:
    from dyvision.tasks.base import BaseTask
    from dyvision.tasks.classification import ClassificationTask
    from dyvision.tasks.detection import DetectionTask
    from dyvision.tasks.heads.detection import register_detection_head
    from dyvision.tasks.heads.segmentation import register_segmentation_head
    from dyvision.tasks.segmentation import SegmentationTask

_ORIGIN = {
    "BaseTask": "base",
    "ClassificationTask": "classification",
    "DetectionTask": "detection",
    "SegmentationTask": "segmentation",
    "register_detection_head": "heads.detection",
    "register_segmentation_head": "heads.segmentation",
}

__all__ = (
    "BaseTask",
    "ClassificationTask",
    "DetectionTask",
    "SegmentationTask",
    "register_detection_head",
    "register_segmentation_head",
)

__getattr__, __dir__ = lazy_names(__name__, _ORIGIN)
