"""Data modules, datasets and transforms for classification, segmentation and detection, and the sample data.

The names below are imported on first use: looking up one class does not load albumentations for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyvision.lazy import lazy_names

if TYPE_CHECKING:
    from dyvision.data.base import VisionDataModule
    from dyvision.data.cityscapes import CityscapesDataModule
    from dyvision.data.cityscapes_dataset import CityscapesDataset
    from dyvision.data.cityscapes_labels import CITYSCAPES_LABELS, CityscapesLabel, LabelTable
    from dyvision.data.coco import COCODataModule, CocoDataset
    from dyvision.data.datasets import PredictDataset, VisionDataset
    from dyvision.data.errors import DataError
    from dyvision.data.formats import list_data_formats, register_data_format
    from dyvision.data.imagefolder import ImageFolderDataModule, ImageFolderDataset
    from dyvision.data.plot import contact_sheet, detect_format, show
    from dyvision.data.sample.write import SAMPLE_CLASSES, SAMPLE_LABELS, write_sample_data
    from dyvision.data.transforms import register_transform

_ORIGIN = {
    "CITYSCAPES_LABELS": "cityscapes_labels",
    "COCODataModule": "coco",
    "CityscapesDataModule": "cityscapes",
    "CityscapesDataset": "cityscapes_dataset",
    "CityscapesLabel": "cityscapes_labels",
    "CocoDataset": "coco",
    "DataError": "errors",
    # the name of earlier versions; it is a callback, and has nothing of this package
    "FinishEpoch": "dyvision.tasks.callbacks.finish_epoch",
    "ImageFolderDataModule": "imagefolder",
    "ImageFolderDataset": "imagefolder",
    "LabelTable": "cityscapes_labels",
    "PredictDataset": "datasets",
    "SAMPLE_CLASSES": "sample.write",
    "SAMPLE_LABELS": "sample.write",
    "VisionDataModule": "base",
    "VisionDataset": "datasets",
    "contact_sheet": "plot",
    "detect_format": "plot",
    "list_data_formats": "formats",
    "register_data_format": "formats",
    "register_transform": "transforms",
    "show": "plot",
    "write_sample_data": "sample.write",
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
    "ImageFolderDataModule",
    "ImageFolderDataset",
    "LabelTable",
    "PredictDataset",
    "VisionDataModule",
    "VisionDataset",
    "contact_sheet",
    "detect_format",
    "list_data_formats",
    "register_data_format",
    "register_transform",
    "show",
    "write_sample_data",
)

__getattr__, __dir__ = lazy_names(__name__, _ORIGIN)
