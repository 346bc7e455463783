"""A data format, images and a table of their labels, and a transform."""

from __future__ import annotations

import csv
from typing import Any

import albumentations as A
import numpy as np

from dyvision.data import ImageFolderDataModule, ImageFolderDataset, register_data_format, register_transform


@register_transform("Stripes")
class Stripes(A.ImageOnlyTransform):
    """Darkens every other row of the image."""

    def apply(self, img: np.ndarray, **parameters: Any) -> np.ndarray:
        """An image ``[H, W, C]``."""
        return np.where(np.arange(len(img))[:, None, None] % 2, img // 2, img).astype(img.dtype)


@register_data_format("table")
class TableDataModule(ImageFolderDataModule):
    """``<root>/<split>.csv`` with lines ``file,class``; files are relative to ``root``.

    Args:
        delimiter: Between the two columns.
    """

    def __init__(self, *args: Any, delimiter: str = ",", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.delimiter = delimiter

    def build_dataset(self, split: str, train: bool) -> ImageFolderDataset:
        """The images of a split."""
        with (self.root / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            rows = [(name, label) for name, label in csv.reader(file, delimiter=self.delimiter)]
        if not self.class_names:
            self.class_names = sorted({label for _, label in rows})
            self.num_classes = len(self.class_names)
        samples = [(str(self.root / name), self.class_names.index(label)) for name, label in rows]
        pipeline = self._train_pipeline if train else self._eval_pipeline
        return ImageFolderDataset(samples, pipeline, self._to_tensor(), **self._dataset_options())
