"""Object detection and instance segmentation in COCO's format."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyvision.arguments import check_number
from dyvision.data._packed import PackedList
from dyvision.data.base import OnBadSample, PredictDataset, VisionDataModule, VisionDataset
from dyvision.data.coco_json import CocoFile, CocoImage, read_categories, read_coco
from dyvision.data.coco_masks import decode_mask, has_mask
from dyvision.data.errors import DataError, some
from dyvision.data.files import read_image
from dyvision.data.pipeline import LARGEST_SIDE, Pipeline, to_tensor
from dyvision.data.transforms import TransformSpec, plain_spec
from dyvision.visualize import palette

_LAYOUT = "<root>/train2017/*.jpg and <root>/annotations/instances_train2017.json (COCO's layout)"


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

    Raises:
        DataError: If masks are asked for and no annotation has one.
    """

    task = "detection"

    def __init__(
        self, coco: CocoFile, source: Path, pipeline: Pipeline, train: bool, masks: bool, skip_empty: bool
    ) -> None:
        super().__init__(pipeline, to_tensor, list(coco.categories.values()), palette(len(coco.categories)))
        self._source = source
        self._train = train
        self._masks = masks
        # 0 is the background in torchvision's detectors
        self._labels = {category_id: label for label, category_id in enumerate(coco.categories, start=1)}
        images = [self._with_masks(image) for image in coco.images] if masks else coco.images
        if masks:
            self._report_lost_masks(coco.images, images)
        self._images = PackedList(image for image in images if image.boxes or not skip_empty)

    def _with_masks(self, image: CocoImage) -> CocoImage:
        keep = [k for k, row in enumerate(image.rows) if has_mask(image.annotations[row].get("segmentation"))]
        return image._replace(boxes=[image.boxes[k] for k in keep], rows=[image.rows[k] for k in keep])

    def _report_lost_masks(self, before: list[CocoImage], after: list[CocoImage]) -> None:
        had, have = sum(len(image.boxes) for image in before), sum(len(image.boxes) for image in after)
        if had and not have:
            raise DataError(f"{self._source}: no annotation has a segmentation; set masks to false.")
        if have < had:
            warnings.warn(f"{self._source}: {had - have} of {had} objects have no mask and are left out.", stacklevel=2)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def image_ids(self) -> list[int]:
        """Image id of each sample."""
        return [image.id for image in self._images]

    def paths(self) -> list[str]:
        """Image file of each sample."""
        return [image.path for image in self._images]

    def read(self, index: int, seed: int) -> dict[str, Any]:
        """``image`` in 0..1, ``target``, ``path``."""
        record: CocoImage = self._images[index]
        pixels = read_image(record.path)
        if pixels.shape[:2] != (record.height, record.width):
            raise DataError(
                f"{record.path} is {pixels.shape[0]}x{pixels.shape[1]} (height x width) but {self._source} says "
                f"{record.height}x{record.width}; the boxes would not fit."
            )
        boxes = np.array(record.boxes, dtype=np.float32).reshape(-1, 4)
        masks = self._decode(record) if self._masks else None
        out = self.pipeline(pixels, seed, boxes=boxes, masks=masks, path=record.path)
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
        return {"image": to_tensor(out.image), "target": target, "path": record.path}

    def _decode(self, record: CocoImage) -> np.ndarray:
        masks = np.zeros((len(record.rows), record.height, record.width), dtype=np.uint8)
        for k, row in enumerate(record.rows):
            annotation = record.annotations[row]
            name = f"{self._source}: the segmentation of annotation {annotation['id']}"
            masks[k] = decode_mask(annotation["segmentation"], record.height, record.width, name)
        return masks


class COCODataModule(VisionDataModule):
    """Detection and instance segmentation in COCO's format.

    Category ids, with or without gaps, become labels 1..n in the order of the ids. Batches: see
    ``docs/architecture.md``. Images are not normalised: torchvision's detectors do that.

    Args:
        root: Folder of the data set.
        batch_size: Images per process in a training batch.
        eval_batch_size: The same in evaluation and prediction; ``batch_size`` if None.
        num_workers: Processes that load data; 0 loads in the main process.
        image_size: The longer side of every image is resized to this; None keeps the stored size (the detector resizes,
            too).
        masks: Read instance masks.
        skip_empty: Leave out training images without objects; evaluation keeps them.
        train_split: Name that stands for ``{split}`` in training.
        val_split: The same in validation.
        test_split: The same for ``test``; ``val_split`` if None.
        images: Folder of a split's images, relative to ``root`` or absolute.
        annotations: JSON file of a split, relative to ``root`` or absolute.
        train_transform: Training pipeline, a list of albumentations transforms (see ``dyvision.data.transforms``); if
            None, a horizontal flip.
        eval_transform: Evaluation pipeline; if None, the image as it is.
        predict_root: Folder of images or one image for ``predict``; the validation images if None.
        seed: Seed of order and augmentation.
        drop_last: Leave out a last, smaller training batch.
        pin_memory: Page-locked memory for faster copies to a GPU; if None, when there is a GPU.
        persistent_workers: Keep workers between epochs.
        on_bad_sample: What training does with a sample that cannot be read: ``"error"`` ends it; ``"skip"`` draws
            another in its place, and each epoch warns of their number and names. Evaluation always ends.

    Raises:
        ValueError: If an argument is out of range or a pipeline is wrong.
    """

    task = "detection"

    def __init__(
        self,
        root: str | Path,
        batch_size: int = 4,
        eval_batch_size: int | None = None,
        num_workers: int = 2,
        image_size: int | None = None,
        masks: bool = False,
        skip_empty: bool = True,
        train_split: str = "train2017",
        val_split: str = "val2017",
        test_split: str | None = None,
        images: str = "{split}",
        annotations: str = "annotations/instances_{split}.json",
        train_transform: list[TransformSpec] | None = None,
        eval_transform: list[TransformSpec] | None = None,
        predict_root: str | Path | None = None,
        seed: int = 0,
        drop_last: bool = True,
        pin_memory: bool | None = None,
        persistent_workers: bool = True,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        root, predict_root = str(root), None if predict_root is None else str(predict_root)
        train_transform, eval_transform = plain_spec(train_transform), plain_spec(eval_transform)
        super().__init__(
            root, batch_size, eval_batch_size, num_workers, train_split, val_split, test_split, predict_root, seed,
            drop_last, pin_memory, persistent_workers, on_bad_sample,
        )  # fmt: skip
        self.save_hyperparameters(logger=False)
        check_number("image_size", image_size, minimum=1, maximum=LARGEST_SIDE, integer=True, allow_none=True)
        resize: list[TransformSpec] = [] if image_size is None else [{"LongestMaxSize": {"max_size": image_size}}]
        train_transform = ["HorizontalFlip"] if train_transform is None else train_transform
        self.masks = masks
        self.skip_empty = skip_empty
        self._images, self._annotations = images, annotations
        self._train_pipeline = Pipeline([*resize, *train_transform], self.task, "train_transform")
        self._eval_pipeline = Pipeline([*resize, *(eval_transform or [])], self.task, "eval_transform")
        self._categories: tuple[Path, dict[int, str]] | None = None

    def annotation_file(self, split: str) -> Path:
        """The JSON file of a split."""
        return self.root / self._annotations.replace("{split}", split)

    def build_dataset(self, split: str, train: bool) -> CocoDataset:
        """The images of a split with their objects."""
        self.require_root(_LAYOUT)
        source = self.annotation_file(split)
        coco = read_coco(source, self.root / self._images.replace("{split}", split))
        self._set_classes(source, coco.categories)
        pipeline = self._train_pipeline if train else self._eval_pipeline
        return CocoDataset(coco, source, pipeline, train, self.masks, skip_empty=train and self.skip_empty)

    def build_predict_dataset(self) -> PredictDataset:
        """The images of ``predict_root``, or those of the validation split."""
        files, ids = self.predict_files(), None
        if self.predict_root is None:
            dataset = self.build_dataset(self.val_split, train=False)
            files, ids = [Path(path) for path in dataset.paths()], dataset.image_ids()
        else:
            for split in (self.train_split, self.val_split):
                if not self.class_names and self.annotation_file(split).is_file():
                    self._set_classes(self.annotation_file(split), read_categories(self.annotation_file(split)))
        return PredictDataset(
            files, self.task, self._eval_pipeline, to_tensor, ids,
            class_names=self.class_names, class_colors=self.class_colors,
        )  # fmt: skip

    def _set_classes(self, source: Path, categories: dict[int, str]) -> None:
        if self._categories is None:
            self._categories = (source, categories)
            self.class_ids, self.class_names = list(categories), list(categories.values())
            self.num_classes = len(categories)
            self.class_colors = palette(self.num_classes)
        first, known = self._categories
        if known != categories:
            differing = [f"{key}: {known.get(key)!r} / {categories.get(key)!r}" for key in {**known, **categories}
                         if known.get(key) != categories.get(key)]  # fmt: skip
            raise DataError(f"{first} and {source} have different categories ({some(differing)}); they have to agree.")
