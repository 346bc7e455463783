"""Images for segmentation with their label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dyvision.data._packed import PackedList
from dyvision.data.cityscapes_labels import LabelTable
from dyvision.data.datasets import ToTensor, VisionDataset
from dyvision.data.errors import DataError
from dyvision.data.files import ImageReader, image_size
from dyvision.data.loaders import IGNORE_INDEX
from dyvision.data.pipeline import Pipeline


class CityscapesDataset(VisionDataset):
    """Images of one split with their label maps.

    Args:
        pairs: Image path and label path of each sample; None for a sample without labels, all of whose pixels are
            ignored.
        table: Which label ids become which class.
        pipeline: Transforms of this split.
        to_tensor: As for ``VisionDataset``.
        stored_labels: Give label maps in the size of the stored image, whatever the pipeline made of the image. For
            evaluation with a pipeline that only resizes.
        reader: As for ``VisionDataset``.
    """

    task = "segmentation"

    def __init__(
        self,
        pairs: list[tuple[str, str | None]],
        table: LabelTable,
        pipeline: Pipeline,
        to_tensor: ToTensor,
        stored_labels: bool = False,
        reader: ImageReader | None = None,
    ) -> None:
        super().__init__(pipeline, to_tensor, table.names, table.colors, reader)
        self._pairs = PackedList(pairs)
        self._table = table
        self._stored_labels = stored_labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self._pairs)

    def paths(self) -> list[str]:
        """The image files."""
        return [path for path, _ in self._pairs]

    def label_paths(self) -> list[str]:
        """The label maps, of the images that have one."""
        return [label for _, label in self._pairs if label is not None]

    def select(self, positions: Sequence[int]) -> None:
        """Keeps the samples at these positions only."""
        self._pairs = PackedList(self._pairs[position] for position in positions)

    def read(self, index: int, seed: int) -> dict[str, Any]:
        """``image``, ``mask``, ``path``, ``original_size``."""
        path, label_path = self._pairs[index]
        pixels = self.reader(path)
        size = (pixels.shape[0], pixels.shape[1])
        if label_path is None:
            labels = np.full(size, IGNORE_INDEX, dtype=np.uint8)
        else:
            labels = self._table.read(label_path, self.reader)
        if labels.shape != size:
            raise DataError(self._sizes_differ(path, size, label_path, (labels.shape[0], labels.shape[1])))
        out = self.pipeline(pixels, seed, mask=None if self._stored_labels else labels, path=path)
        mask = torch.from_numpy(np.ascontiguousarray(labels if self._stored_labels else out.mask)).to(torch.int64)
        return {"image": self.to_tensor(out.image), "mask": mask, "path": path, "original_size": size}

    def _sizes_differ(self, path: str, size: tuple[int, int], label_path: object, labels: tuple[int, int]) -> str:
        message = (
            f"{label_path}: the label map is {labels[0]}x{labels[1]} (height x width) but its image {path} is "
            f"{size[0]}x{size[1]}; they have to be of one size."
        )
        if labels == size[::-1] and image_size(path, "ignore") != image_size(path, "apply"):
            other = "ignore" if self.reader.exif_orientation == "apply" else "apply"
            message += f" The image has an EXIF orientation: set exif_orientation to {other!r}."
        return message
