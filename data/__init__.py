"""Data modules, datasets and transforms for classification, segmentation and detection, and the sample data.

The names below are imported on first use: looking up one class does not load albumentations for all of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyvision.data.base import VisionDataModule
    from dyvision.data.cityscapes import CityscapesDataModule
    from dyvision.data.cityscapes_dataset import CityscapesDataset
    from dyvision.data.cityscapes_labels import CITYSCAPES_LABELS, CityscapesLabel, LabelTable
    from dyvision.data.coco import COCODataModule, CocoDataset
    from dyvision.data.datasets import PredictDataset, VisionDataset
    from dyvision.data.errors import DataError
    from dyvision.data.imagefolder import ImageFolderDataModule, ImageFolderDataset
    from dyvision.data.plot import contact_sheet, detect_format, show
    from dyvision.data.resume import FinishEpoch
    from dyvision.data.sample.write import SAMPLE_CLASSES, SAMPLE_LABELS, write_sample_data

_ORIGIN = {
    "CITYSCAPES_LABELS": "cityscapes_labels",
    "COCODataModule": "coco",
    "CityscapesDataModule": "cityscapes",
    "CityscapesDataset": "cityscapes_dataset",
    "CityscapesLabel": "cityscapes_labels",
    "CocoDataset": "coco",
    "DataError": "errors",
    "FinishEpoch": "resume",
    "ImageFolderDataModule": "imagefolder",
    "ImageFolderDataset": "imagefolder",
    "LabelTable": "cityscapes_labels",
    "PredictDataset": "datasets",
    "SAMPLE_CLASSES": "samples",
    "SAMPLE_LABELS": "samples",
    "VisionDataModule": "base",
    "VisionDataset": "datasets",
    "contact_sheet": "plot",
    "detect_format": "plot",
    "show": "plot",
    "write_sample_data": "samples",
}

__all__ = (
    "CITYSCAPES_LABELS",
    "SAMPLE_CLASSES",
    "SAMPLE_LABELS",
    "COCODataModule",
    "CityscapesDataModule",
    "CityscapesDataset",
    "CityscapesLabel",
    "CocoDataset",
    "DataError",
    "FinishEpoch",
    "ImageFolderDataModule",
    "ImageFolderDataset",
    "LabelTable",
    "PredictDataset",
    "VisionDataModule",
    "VisionDataset",
    "contact_sheet",
    "detect_format",
    "show",
    "write_sample_data",
)


def __getattr__(name: str) -> Any:
    if name in _ORIGIN:
        return getattr(import_module(f"{__name__}.{_ORIGIN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGIN})
