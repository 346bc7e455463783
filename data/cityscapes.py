"""Semantic segmentation in Cityscapes' layout: ``leftImg8bit/<split>/<city>/*`` beside ``gtFine/<split>/<city>/*``."""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from dyvision.arguments import check_numbers
from dyvision.data._packed import PackedList
from dyvision.data.base import OnBadSample, PredictDataset, ToTensor, VisionDataModule, VisionDataset
from dyvision.data.cityscapes_labels import LabelTable
from dyvision.data.errors import DataError, describe, did_you_mean, some
from dyvision.data.files import IMAGE_EXTENSIONS, list_folders, list_images, read_image, read_label_map
from dyvision.data.loaders import IGNORE_INDEX
from dyvision.data.pipeline import IMAGENET_MEAN, IMAGENET_STD, LARGEST_SIDE, Normalize, Pipeline
from dyvision.data.transforms import TransformSpec, plain_spec


class CityscapesDataset(VisionDataset):
    """Images of one split with their label maps.

    Args:
        pairs: Image path and label path of each sample; None for a sample without labels, all of whose pixels are
            ignored.
        table: Which label ids become which class.
        pipeline: Transforms of this split.
        to_tensor: As for ``VisionDataset``.
    """

    task = "segmentation"

    def __init__(
        self, pairs: list[tuple[str, str | None]], table: LabelTable, pipeline: Pipeline, to_tensor: ToTensor
    ) -> None:
        super().__init__(pipeline, to_tensor, table.names, table.colors)
        self._pairs = PackedList(pairs)
        self._table = table

    def __len__(self) -> int:
        """Number of images."""
        return len(self._pairs)

    def read(self, index: int, seed: int) -> dict[str, Any]:
        """``image``, ``mask``, ``path``, ``original_size``."""
        path, label_path = self._pairs[index]
        pixels = read_image(path)
        size = (pixels.shape[0], pixels.shape[1])
        if label_path is None:
            labels = np.full(size, IGNORE_INDEX, dtype=np.uint8)
        else:
            labels = self._table.to_train_ids(read_label_map(label_path), label_path)
        if labels.shape != size:
            raise DataError(
                f"{label_path}: the label map is {labels.shape[0]}x{labels.shape[1]} (height x width) but its image "
                f"{path} is {size[0]}x{size[1]}; they have to be of one size."
            )
        out = self.pipeline(pixels, seed, mask=labels, path=path)
        mask = torch.from_numpy(np.ascontiguousarray(out.mask)).to(torch.int64)
        return {"image": self.to_tensor(out.image), "mask": mask, "path": path, "original_size": size}


class CityscapesDataModule(VisionDataModule):
    """Semantic segmentation in Cityscapes' layout.

    Label ids become the 19 train ids by Cityscapes' official table; ``classes`` keeps only some of its names, and
    ``label_table`` brings another data set's ids. Batches: see ``docs/architecture.md``; evaluation images of different
    sizes are padded.

    Args:
        root: Folder that holds ``image_dir`` and ``label_dir``.
        batch_size: Images per process in a training batch.
        eval_batch_size: The same in evaluation and prediction; ``batch_size`` if None.
        num_workers: Processes that load data; 0 loads in the main process.
        crop_size: Height and width of the default training pipeline's crops.
        image_size: Height and width every image is resized to before anything else; None keeps the stored size.
        scale_range: The default training pipeline scales by a factor from this range before it crops.
        train_split: Folder of the training split.
        val_split: Folder of the validation split.
        test_split: Folder that ``test`` evaluates; ``val_split`` if None. Where it has no label maps, all its pixels
            are ignored.
        image_dir: Folder of the images below ``root``.
        label_dir: Folder of the label maps below ``root``.
        image_suffix: End of the images' names before the extension, which may be any unless it is given here.
        label_suffix: What stands in its place in the label maps' names.
        classes: Names of labels to train on, in this order; the others are ignored.
        label_table: ``{labelId: name}`` for other data sets than Cityscapes; equal names are one class.
        ignore_ids: Label ids that occur beside the table and are ignored; 255 always is.
        train_transform: Training pipeline, a list of albumentations transforms (see ``dyvision.data.transforms``); if
            None: random scale, random crop, horizontal flip and colour jitter.
        eval_transform: Evaluation pipeline; if None, the whole image.
        mean: Channel means subtracted, in 0..1.
        std: Channel deviations divided by, in 0..1.
        predict_root: Folder of images or one image for ``predict``; the validation images if None.
        seed: Seed of order and augmentation.
        drop_last: Leave out a last, smaller training batch.
        pin_memory: Page-locked memory for faster copies to a GPU; if None, when there is a GPU.
        persistent_workers: Keep workers between epochs.
        on_bad_sample: What training does with a sample that cannot be read: ``"error"`` ends it; ``"skip"`` draws
            another in its place, and each epoch warns of their number and names. Evaluation always ends.

    Raises:
        ValueError: If an argument is out of range, a class name unknown or a pipeline wrong.
    """

    task = "segmentation"

    def __init__(
        self,
        root: str | Path,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 2,
        crop_size: tuple[int, int] = (512, 1024),
        image_size: tuple[int, int] | None = None,
        scale_range: tuple[float, float] = (0.5, 2.0),
        train_split: str = "train",
        val_split: str = "val",
        test_split: str | None = None,
        image_dir: str = "leftImg8bit",
        label_dir: str = "gtFine",
        image_suffix: str = "_leftImg8bit",
        label_suffix: str = "_gtFine_labelIds",
        classes: list[str] | None = None,
        label_table: dict[int, str] | None = None,
        ignore_ids: list[int] | None = None,
        train_transform: list[TransformSpec] | None = None,
        eval_transform: list[TransformSpec] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
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
        sides: dict[str, Any] = {"length": 2, "minimum": 1, "maximum": LARGEST_SIDE, "integer": True}
        check_numbers("crop_size", crop_size, **sides)
        check_numbers("image_size", image_size, **sides, allow_none=True)
        check_numbers("scale_range", scale_range, length=2, above=0, maximum=100)
        if scale_range[0] > scale_range[1]:
            raise ValueError(f"scale_range={list(scale_range)}: expected the smaller number first.")
        self._normalize = Normalize(mean, std)
        if train_transform is None:
            train_transform = _default_train(crop_size, scale_range, mean)
        resize: list[TransformSpec] = []
        if image_size is not None:
            resize = [{"Resize": {"height": image_size[0], "width": image_size[1]}}]
        self.image_dir, self.label_dir = self.root / image_dir, self.root / label_dir
        self.image_suffix, self.label_suffix = image_suffix, label_suffix
        self.mean, self.std = tuple(mean), tuple(std)
        self._train_pipeline = Pipeline([*resize, *train_transform], self.task, "train_transform")
        self._eval_pipeline = Pipeline([*resize, *(eval_transform or [])], self.task, "eval_transform")
        self._table = LabelTable(classes, label_table, ignore_ids or ())
        self.num_classes = len(self._table.names)
        self.class_names, self.class_colors = self._table.names, self._table.colors
        self.class_ids = self._table.ids

    def build_dataset(self, split: str, train: bool) -> CityscapesDataset:
        """The images of a split with their label maps."""
        pairs = self._pairs(split, may_lack_labels=not train and split not in (self.train_split, self.val_split))
        return CityscapesDataset(
            pairs, self._table, self._train_pipeline if train else self._eval_pipeline, self._normalize
        )

    def build_predict_dataset(self) -> PredictDataset:
        """The images of ``predict_root``, or those of the validation split."""
        files = self.predict_files()
        if self.predict_root is None:
            files = [self.image_dir / self.val_split / name for name in self._images(self.val_split)]
        return PredictDataset(
            files, self.task, self._eval_pipeline, self._normalize,
            class_names=self.class_names, class_colors=self.class_colors,
        )  # fmt: skip

    def _layout(self) -> str:
        image = f"{self.image_dir.name}/<split>/<city>/<name>{self.image_suffix}"
        label = f"{self.label_dir.name}/<split>/<city>/<name>{self.label_suffix}"
        return f"{_any_extension(image, '.png or .jpg')} and {_any_extension(label, '.png')} (Cityscapes' layout)"

    def _images(self, split: str) -> list[str]:
        self.require_root(self._layout())
        folder = self.image_dir / split
        if not folder.is_dir():
            parent = self.image_dir if self.image_dir.is_dir() else self.root
            hint = did_you_mean(split, list_folders(parent)) if parent == self.image_dir else f" {describe(parent)}."
            raise DataError(
                f"{self.root}: no folder {self.image_dir.name}/{split}; expected {self._layout()}; the folders are the "
                f"arguments image_dir, label_dir and *_split.{hint}"
            )
        files = list_images(folder)
        images = [name for name in files if _cut(name, self.image_suffix) is not None]
        if not images:
            found = f"there are files like {some(files, 2)}" if files else describe(folder)
            raise DataError(
                f"{folder}: no image whose name ends in image_suffix={self.image_suffix!r} ({found}); expected "
                f"{self._layout()}."
            )
        return images

    def _pairs(self, split: str, may_lack_labels: bool) -> list[tuple[str, str | None]]:
        images = self._images(split)
        folder = self.label_dir / split
        labels = {}
        for name in list_images(folder) if folder.is_dir() else []:
            stem = _cut(name, self.label_suffix)
            if stem is not None:
                labels[stem] = str(folder / name)
        stems = [_cut(name, self.image_suffix) or "" for name in images]
        pairs = [
            (str(self.image_dir / split / name), labels.get(stem)) for name, stem in zip(images, stems, strict=True)
        ]
        missing = [image for image, label in pairs if label is None]
        if not missing:
            return pairs
        stem = stems[[label for _, label in pairs].index(None)]
        expected = folder / _any_extension(f"{stem}{self.label_suffix}", ".png")
        if not may_lack_labels:
            raise DataError(
                f"{len(missing)} of {len(images)} images of the split {split!r} have no label map; {missing[0]} needs "
                f"{expected}: add it, remove the image, or set label_dir and label_suffix."
            )
        warnings.warn(
            f"{len(missing)} of {len(images)} images of the split {split!r} have no label map (such as {expected}): "
            "they do not count in the metrics.",
            stacklevel=2,
        )
        return pairs


def _cut(name: str, suffix: str) -> str | None:
    """The part of a path before a suffix (which may or may not include the extension), or None if it has another."""
    if not suffix.lower().endswith(IMAGE_EXTENSIONS):
        name = str(PurePosixPath(name).with_suffix(""))
    return name[: len(name) - len(suffix)] if name.endswith(suffix) else None


def _any_extension(name: str, extension: str) -> str:
    return name if name.lower().endswith(IMAGE_EXTENSIONS) else name + extension


def _default_train(
    crop_size: tuple[int, int], scale_range: tuple[float, float], mean: tuple[float, float, float]
) -> list[TransformSpec]:
    height, width = crop_size
    fill = [255 * value for value in mean]
    limit = [scale_range[0] - 1, scale_range[1] - 1]  # albumentations counts from 1
    return [
        {"RandomScale": {"scale_limit": limit, "p": 1.0}},
        {"PadIfNeeded": {"min_height": height, "min_width": width, "fill": fill}},
        {"RandomCrop": {"height": height, "width": width}},
        "HorizontalFlip",
        {"ColorJitter": {"brightness": 0.25, "contrast": 0.25, "saturation": 0.25, "hue": 0.05, "p": 0.8}},
    ]
