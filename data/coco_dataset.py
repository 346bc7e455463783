"""Images of one split of a COCO file with boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dyvision.data.coco_json import CocoFile, CocoImage
from dyvision.data.coco_masks import decode_mask
from dyvision.data.datasets import ToTensor, VisionDataset
from dyvision.data.errors import DataError
from dyvision.data.files import ImageReader, Orientation, image_size
from dyvision.data.pipeline import Pipeline, to_tensor
from dyvision.visualize import palette


class CocoDataset(VisionDataset):
    """Images of one split with boxes, and masks if asked for.

    Crowd regions are no targets; they stay in ``annotations``, where COCOeval looks for them.

    Args:
        coco: The checked annotation file.
        source: Its name, for messages.
        pipeline: Transforms of this split.
        train: Whether this is for training: no ``annotations`` in the targets.
        masks: Whether the targets have masks.
        skip_empty: Leave out images with nothing to train on.

        to_tensor: Turns the transformed image into what the network gets.
        reader: How its pictures are read.
    """

    task = "detection"

    def __init__(
        self,
        coco: CocoFile,
        source: Path,
        pipeline: Pipeline,
        train: bool,
        masks: bool,
        skip_empty: bool,
        to_tensor: ToTensor = to_tensor,
        reader: ImageReader | None = None,
    ) -> None:
        names = list(coco.categories.values())
        super().__init__(pipeline, to_tensor, names, palette(len(names)), reader)
        self._coco, self._source = coco, source
        self._train, self._masks = train, masks
        # 0 is the background in torchvision's detectors
        self._labels = {category_id: label for label, category_id in enumerate(coco.categories, start=1)}
        self._images = np.flatnonzero(coco.objects > 0) if skip_empty else np.arange(len(coco))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    @property
    def listed(self) -> int:
        """Images of the file, those without objects included."""
        return len(self._coco)

    def image_ids(self) -> list[int]:
        """Image id of each sample."""
        return [self._coco.ids[k] for k in self._images.tolist()]

    def paths(self) -> list[str]:
        """Image file of each sample."""
        paths = self._coco.paths
        return [paths[k] for k in self._images.tolist()]

    def strata(self) -> list[int]:
        """The rarest category of each sample, -1 without objects: an image has many, and the rare ones are short."""
        categories, owners = self._coco.classes()
        known, positions, counts = np.unique(categories, return_inverse=True, return_counts=True)
        result = np.full(len(self._coco), -1, dtype=np.int64)
        # the most frequent first, so that rarer ones overwrite them
        for position in np.argsort(-counts, kind="stable").tolist():
            result[owners[positions == position]] = known[position]
        return [int(value) for value in result[self._images]]

    def select(self, positions: Sequence[int]) -> None:
        """Keeps the samples at these positions only."""
        self._images = self._images[np.asarray(positions, dtype=np.int64)]

    def read(self, index: int, seed: int) -> dict[str, Any]:
        """``image`` in 0..1, ``target``, ``path``."""
        record: CocoImage = self._coco[int(self._images[index])]
        pixels = self.reader(record.path)
        if pixels.shape[:2] != (record.height, record.width):
            raise DataError(self._other_size(record, pixels))
        masks = self._decode(record) if self._masks else None
        out = self.pipeline(pixels, seed, boxes=record.boxes.astype(np.float32), masks=masks, path=record.path)
        rows = [record.rows[k] for k in ([] if out.kept is None else out.kept.tolist())]
        labels = [self._labels[record.annotations[row]["category_id"]] for row in rows]
        target: dict[str, Any] = {
            "boxes": torch.from_numpy(np.ascontiguousarray(out.boxes)),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "image_id": record.id,
            "original_size": (record.height, record.width),
        }
        if out.masks is not None:
            target["masks"] = torch.from_numpy(np.ascontiguousarray(out.masks, dtype=np.uint8))
        if not self._train:
            target["annotations"] = record.annotations
        return {"image": self.to_tensor(out.image), "target": target, "path": record.path}

    def _other_size(self, record: CocoImage, pixels: NDArray[np.uint8]) -> str:
        found, stated = pixels.shape[:2], (record.height, record.width)
        told = (
            f"{record.path} is {found[0]}x{found[1]} (height x width) but {self._source} says {stated[0]}x{stated[1]}; "
            "the boxes would not fit"
        )
        other: Orientation = "ignore" if self.reader.exif_orientation == "apply" else "apply"
        if image_size(record.path, other, self.reader.max_image_pixels) == stated:
            upright = "upright" if other == "apply" else "stored"
            told += (
                f". The picture has an EXIF orientation and the file's size is that of the {upright} picture: set "
                f"exif_orientation to {other!r}"
            )
        return f"{told}."

    def _decode(self, record: CocoImage) -> NDArray[np.uint8]:
        masks = np.zeros((len(record.rows), record.height, record.width), dtype=np.uint8)
        for k, row in enumerate(record.rows):
            annotation = record.annotations[row]
            name = f"{self._source}: the segmentation of annotation {annotation['id']}"
            masks[k] = decode_mask(annotation["segmentation"], record.height, record.width, name)
        return masks
