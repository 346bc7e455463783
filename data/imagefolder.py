"""Classification data in ImageNet's layout: ``<root>/<split>/<class>/*.jpg``, one folder per class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dyvision.arguments import check_number
from dyvision.data._packed import PackedList
from dyvision.data.base import OnBadSample, PredictDataset, ToTensor, VisionDataModule, VisionDataset
from dyvision.data.errors import DataError, describe, did_you_mean, some
from dyvision.data.files import list_folders, list_images, read_image
from dyvision.data.pipeline import IMAGENET_MEAN, IMAGENET_STD, LARGEST_SIDE, Normalize, Pipeline
from dyvision.data.transforms import TransformSpec, plain_spec
from dyvision.visualize import palette

_LAYOUT = "<root>/train/<class>/*.jpg and <root>/val/<class>/*.jpg (ImageNet's layout)"


class ImageFolderDataset(VisionDataset):
    """Images of one split, labelled by the folder they lie in (at any depth below it).

    Args:
        folder: ``<root>/<split>``.
        classes: Folder names in the order of the labels.
        pipeline: Transforms of this split.
        to_tensor: As for ``VisionDataset``.
        class_names: Names to show, one per class.
        class_colors: One per class.

    Raises:
        DataError: If a folder is not one of ``classes``, or there is no image at all.
    """

    task = "classification"

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        pipeline: Pipeline,
        to_tensor: ToTensor,
        class_names: Sequence[str] = (),
        class_colors: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(pipeline, to_tensor, class_names or classes, class_colors or palette(len(classes)))
        self.folder = folder
        found = list_folders(folder)
        unknown = [name for name in found if name not in set(classes)]
        if unknown:
            raise DataError(
                f"{folder}: class folders that the training split does not have: {some(unknown)}."
                f"{did_you_mean(unknown[0], classes)}"
            )
        samples: list[tuple[str, int]] = []
        empty = []
        for label, name in enumerate(classes):
            images = list_images(folder / name) if name in found else []
            samples += [(f"{name}/{image}", label) for image in images]
            if not images:
                empty.append(name)
        if not samples:
            raise DataError(f"{folder}: no image in any class folder ({describe(folder)}); expected {_LAYOUT}.")
        if empty:
            warnings.warn(f"{folder}: {len(empty)} classes have no image here: {some(empty)}.", stacklevel=2)
        self._samples = PackedList(samples)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._samples)

    def read(self, index: int, seed: int) -> dict[str, Any]:
        """``image``, ``label``, ``path``."""
        name, label = self._samples[index]
        path = str(self.folder / name)
        image = self.pipeline(read_image(path), seed, path=path).image
        return {"image": self.to_tensor(image), "label": label, "path": path}


class ImageFolderDataModule(VisionDataModule):
    """Classification data in ImageNet's layout.

    The classes are the folders of the training split in sorted order (of the evaluated split, where there is no
    training split). Batches: see ``docs/architecture.md``.

    Args:
        root: Folder that holds the splits.
        batch_size: Images per process in a training batch.
        eval_batch_size: The same in evaluation and prediction; ``batch_size`` if None.
        num_workers: Processes that load data; 0 loads in the main process.
        image_size: Height and width the default pipelines produce.
        crop_ratio: The default evaluation pipeline crops the centre from an image whose shorter side is
            ``image_size / crop_ratio``.
        train_split: Folder of the training split.
        val_split: Folder of the validation split.
        test_split: Folder that ``test`` evaluates; ``val_split`` if None.
        words: File with names of the classes, relative to ``root`` or absolute: ``folder name`` per line, or one name
            per line in the folders' order. If None, ``words.txt`` in ``root`` where it exists.
        train_transform: Training pipeline, a list of albumentations transforms (see ``dyvision.data.transforms``); if
            None, a random resized crop (scale 0.08 to 1) and a horizontal flip.
        eval_transform: Evaluation pipeline; if None, resize the shorter side and crop the centre.
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
        ValueError: If an argument is out of range or a pipeline is wrong.
    """

    task = "classification"

    def __init__(
        self,
        root: str | Path,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 2,
        image_size: int = 224,
        crop_ratio: float = 0.875,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str | None = None,
        words: str | None = None,
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
        check_number("image_size", image_size, minimum=1, maximum=LARGEST_SIDE, integer=True)
        check_number("crop_ratio", crop_ratio, above=0, maximum=1)
        self._normalize = Normalize(mean, std)
        if train_transform is None:
            train_transform = [{"RandomResizedCrop": {"size": [image_size, image_size]}}, "HorizontalFlip"]
        if eval_transform is None:
            resized = round(image_size / crop_ratio)
            crop = {"height": image_size, "width": image_size}
            eval_transform = [{"SmallestMaxSize": {"max_size": resized}}, {"CenterCrop": crop}]
        self.words = words
        self.mean, self.std = tuple(mean), tuple(std)
        self._train_pipeline = Pipeline(train_transform, self.task, "train_transform")
        self._eval_pipeline = Pipeline(eval_transform, self.task, "eval_transform")
        self._folders: list[str] = []

    def build_dataset(self, split: str, train: bool) -> ImageFolderDataset:
        """The images of a split."""
        self._read_classes(split)
        folder = self._split_folder(split)
        pipeline = self._train_pipeline if train else self._eval_pipeline
        return ImageFolderDataset(folder, self._folders, pipeline, self._normalize, self.class_names, self.class_colors)

    def build_predict_dataset(self) -> PredictDataset:
        """The images of ``predict_root``, or those of the validation split."""
        files = self.predict_files()
        if self.predict_root is None:
            self._read_classes(self.val_split)
            folder = self._split_folder(self.val_split)
            files = [folder / name for name in list_images(folder)]
        elif (self.root / self.train_split).is_dir():
            self._read_classes(self.train_split)
        return PredictDataset(
            files, self.task, self._eval_pipeline, self._normalize,
            class_names=self.class_names, class_colors=self.class_colors,
        )  # fmt: skip

    def _split_folder(self, split: str) -> Path:
        self.require_root(_LAYOUT)
        folder = self.root / split
        if not folder.is_dir() or not list_folders(folder):
            where = f"{folder}: {describe(folder)}" if folder.is_dir() else f"{self.root}: no folder {split!r}"
            hint = "" if folder.is_dir() else did_you_mean(split, list_folders(self.root))
            raise DataError(f"{where}; expected {_LAYOUT}; the split names are arguments.{hint}")
        return folder

    def _read_classes(self, split: str) -> None:
        if self._folders:
            return
        train = self.root / self.train_split
        folder = train if train.is_dir() else self._split_folder(split)
        self._folders = list_folders(folder)
        if not self._folders:
            raise DataError(f"{folder}: no class folders ({describe(folder)}); expected {_LAYOUT}.")
        self.num_classes = len(self._folders)
        self.class_names = self._read_names()
        self.class_colors = palette(self.num_classes)
        self.class_ids = list(range(self.num_classes))

    def _read_names(self) -> list[str]:
        path = self.root / (self.words or "words.txt")
        if not path.is_file():
            if self.words is not None:
                raise DataError(f"words={self.words!r}: there is no file {path}.")
            return list(self._folders)
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return _match_names(lines, self._folders, path)


def _match_names(lines: list[str], folders: list[str], path: Path) -> list[str]:
    split = [line.split("\t", 1) if "\t" in line else line.split(None, 1) for line in lines]
    by_folder = {parts[0]: parts[1] for parts in split if len(parts) == 2}
    if all(folder in by_folder for folder in folders):
        long = [by_folder[folder].strip() for folder in folders]
    elif len(lines) == len(folders) and not any(folder in by_folder for folder in folders):
        long = lines
    else:
        missing = [folder for folder in folders if folder not in by_folder]
        raise DataError(
            f"{path}: no name for the class folders {some(missing)}; write one line per class: folder, tab, name."
        )
    # ImageNet lists synonyms; the first is enough unless two classes share it ("crane" is a bird and a machine)
    short = [name.split(",")[0].strip() for name in long]
    return [
        name if short.count(name) == 1 else f"{whole} ({folder})"
        for name, whole, folder in zip(short, long, folders, strict=True)
    ]
