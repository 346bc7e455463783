"""Classification data in ImageNet's layout: ``<root>/<split>/<class>/*.jpg``, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dyvision.arguments import check_number
from dyvision.data._packed import PackedList
from dyvision.data.base import VisionDataModule
from dyvision.data.class_checks import check_labels, check_names
from dyvision.data.class_names import normal, read_class_names
from dyvision.data.datasets import PredictDataset, ToTensor, VisionDataset
from dyvision.data.errors import DataError, describe, did_you_mean
from dyvision.data.files import list_folders, list_images
from dyvision.data.findings import Findings
from dyvision.data.pipeline import LARGEST_SIDE, Normalize, Pipeline
from dyvision.data.preprocessing import interpolation_options
from dyvision.data.split_files import ListedImage, read_listed_images
from dyvision.data.transforms import TransformSpec, plain_spec
from dyvision.text import some
from dyvision.visualize import palette

_LAYOUT = "<root>/train/<class>/*.jpg and <root>/val/<class>/*.jpg (ImageNet's layout)"


class ImageFolderDataset(VisionDataset):
    """Images of one split with one label each.

    Args:
        samples: Image file and label of each.
        pipeline: Transforms of this split.
        to_tensor: As for ``VisionDataset``.
        **options: ``class_names``, ``class_colors`` and ``reader``.
    """

    task = "classification"

    def __init__(
        self, samples: Iterable[tuple[str, int]], pipeline: Pipeline, to_tensor: ToTensor, **options: Any
    ) -> None:
        super().__init__(pipeline, to_tensor, **options)
        self._samples = PackedList(samples)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._samples)

    def paths(self) -> list[str]:
        """The image files."""
        return [path for path, _ in self._samples]

    def strata(self) -> list[int]:
        """The labels."""
        return [label for _, label in self._samples]

    def select(self, positions: Sequence[int]) -> None:
        """Keeps the samples at these positions only."""
        self._samples = PackedList(self._samples[position] for position in positions)

    def read(self, index: int, seed: int) -> dict[str, Any]:
        """``image``, ``label``, ``path``."""
        path, label = self._samples[index]
        image = self.pipeline(self.reader(path), seed, path=path).image
        return {"image": self.to_tensor(image), "label": label, "path": path}


class ImageFolderDataModule(VisionDataModule):
    """Classification data in ImageNet's layout.

    The classes are the folders of the training split in sorted order (of the evaluated split, where there is no
    training split). Batches: see ``docs/architecture.md``.

    Args:
        image_size: Height and width the default pipelines produce.
        crop_ratio: The default evaluation pipeline crops the centre from an image whose shorter side is
            ``image_size / crop_ratio``; None takes what the backbone's pretrained weights expect, else 0.875.
        interpolation: How the default pipelines resize: ``"bilinear"``, ``"bicubic"``, ``"lanczos"`` or ``"nearest"``;
            None takes what the backbone's pretrained weights expect, else OpenCV's linear one.
        words: File with names of the classes, relative to ``root`` or absolute: ``folder name`` per line, or one name
            per line in the folders' order. If None, ``words.txt`` in ``root`` where it exists.
        split_file: Text file with the samples of a split, ``{split}`` in its name, relative to ``root`` or absolute: a
            file name per line, relative to ``root`` or to ``<root>/<split>`` (the class is its folder), or a file name
            and the name or number of its class. If None, the samples are what lies in the folder of the split.
        train_transform: Training pipeline, a list of albumentations transforms (see ``dyvision.data.transforms``); if
            None, a random resized crop (scale 0.08 to 1) and a horizontal flip.
        eval_transform: Evaluation pipeline; if None, resize the shorter side and crop the centre.
        mean: Channel means subtracted, in 0..1; None takes those that the backbone's pretrained weights expect, else
            ImageNet's.
        std: Channel deviations divided by, in 0..1; None as for ``mean``.

    Raises:
        ValueError: If an argument is out of range or a pipeline is wrong.
    """

    task = "classification"
    from_backbone = ("mean", "std", "crop_ratio", "interpolation")
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_ratio: float
    interpolation: str | None

    def __init__(
        self,
        *args: Any,
        batch_size: int = 32,
        image_size: int = 224,
        crop_ratio: float | None = None,
        interpolation: str | None = None,
        words: str | None = None,
        split_file: str | None = None,
        train_transform: list[TransformSpec] | None = None,
        eval_transform: list[TransformSpec] | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        train_transform, eval_transform = plain_spec(train_transform), plain_spec(eval_transform)
        super().__init__(*args, batch_size=batch_size, **kwargs)
        check_number("image_size", image_size, minimum=1, maximum=LARGEST_SIDE, integer=True)
        check_number("crop_ratio", crop_ratio, above=0, maximum=1, allow_none=True)
        self.image_size, self.words, self.split_file = image_size, words, split_file
        self._train_transform, self._eval_transform = train_transform, eval_transform
        self.set_preprocessing({"mean": mean, "std": std, "crop_ratio": crop_ratio, "interpolation": interpolation})
        self._folders: list[str] = []
        self._lists: dict[Path, list[ListedImage]] = {}

    def build_pipelines(self) -> None:
        """The transforms of training and evaluation."""
        Normalize(self.mean, self.std, self.channels)
        size, resize = self.image_size, interpolation_options(self.interpolation)
        train, evaluation = self._train_transform, self._eval_transform
        if train is None:
            train = [{"RandomResizedCrop": {"size": [size, size], **resize}}, "HorizontalFlip"]
        if evaluation is None:
            crop = {"height": size, "width": size}
            shorter = {"max_size": round(size / self.crop_ratio), **resize}
            evaluation = [{"SmallestMaxSize": shorter}, {"CenterCrop": crop}]
        self._train_pipeline = Pipeline(train, self.task, "train_transform")
        self._eval_pipeline = Pipeline(evaluation, self.task, "eval_transform")

    def build_dataset(self, split: str, train: bool) -> ImageFolderDataset:
        """The images of a split."""
        self._read_classes(split)
        pipeline = self._train_pipeline if train else self._eval_pipeline
        listed = self.split_file is not None
        samples = self._listed(split) if listed else self._in_folders(split)
        source = self._split_file(split) if listed else self.root / split
        check_labels(source, samples, self._folders, listed, self.findings)
        self.findings.report()
        return ImageFolderDataset(samples, pipeline, self._to_tensor(), **self._dataset_options())

    def build_predict_dataset(self) -> PredictDataset:
        """The images of ``predict_root``, or those of the validation split."""
        files = self.predict_files()
        if self.predict_root is None:
            files = [Path(path) for path in self.build_validation_dataset().paths()]
        elif (self.root / self.train_split).is_dir():
            self._read_classes(self.train_split)
        return self.images_to_predict(files)

    def _to_tensor(self) -> Normalize:
        return Normalize(self.mean, self.std, self.channels)

    def _split_folder(self, split: str) -> Path:
        self.require_root(_LAYOUT)
        folder = self.root / split
        if not folder.is_dir() or not list_folders(folder):
            where = f"{folder}: {describe(folder)}" if folder.is_dir() else f"{self.root}: no folder {split!r}"
            hint = "" if folder.is_dir() else did_you_mean(split, list_folders(self.root))
            raise DataError(f"{where}; expected {_LAYOUT}; the split names are arguments.{hint}")
        return folder

    @staticmethod
    def _class_folders(folder: Path, findings: Findings | None = None) -> dict[str, list[str]]:
        """Names on disk of each class: two, where one name is written in two Unicode forms."""
        found: dict[str, list[str]] = {}
        for name in list_folders(folder, findings):
            found.setdefault(normal(name), []).append(name)
        return found

    def _in_folders(self, split: str) -> list[tuple[str, int]]:
        folder = self._split_folder(split)
        found = self._class_folders(folder, self.findings)
        images = {
            name: [
                os.path.normpath(folder / written / image)
                for written in names
                for image in list_images(folder / written, self.findings)
            ]
            for name, names in found.items()
        }
        unknown = [name for name in found if name not in set(self._folders)]
        if any(images[name] for name in unknown):
            self.findings.refused_because(
                folder,
                f"class folders that the training split does not have: {some(unknown)}",
                f"move them, or add the classes there.{did_you_mean(unknown[0], self._folders)}".rstrip(".?"),
            )
        elif unknown:
            self.findings.repaired(folder, "empty folders that are no class of the training split", "left out",
                                   some(unknown))  # fmt: skip
        samples = [(path, label) for label, name in enumerate(self._folders) for path in images.get(name, ())]
        if not samples:
            raise DataError(f"{folder}: no image in any class folder ({describe(folder)}); expected {_LAYOUT}.")
        return samples

    def _listed(self, split: str) -> list[tuple[str, int]]:
        source = self._split_file(split)
        labels = {name: label for label, name in enumerate(self._folders)}
        samples = []
        for image in self._list(split, keep=False):
            label = labels.get(normal(image.label), -1 if image.number is None else image.number)
            if not 0 <= label < len(self._folders):
                self.findings.refused_because(
                    source, f"the class {image.label!r} of {image.file} is none of the training split's",
                    "correct the line", f"line {image.line}",
                )  # fmt: skip
                continue
            samples.append((image.file, label))
        return samples

    def _list(self, split: str, keep: bool) -> list[ListedImage]:
        """The lines of a split's list, read once: for the classes, and then for the samples."""
        source = self._split_file(split)
        found = self._lists.pop(source, None)
        if found is None:
            found = read_listed_images(source, self.root, split, self.findings)
        if keep:
            self._lists[source] = found
        return found

    def _split_file(self, split: str) -> Path:
        return self.root / str(self.split_file).replace("{split}", split)

    def _read_classes(self, split: str) -> None:
        if self._folders:
            return
        train = self.root / self.train_split
        if self.split_file is not None:
            self._folders = self._listed_classes(split)
            folder = self.root
        else:
            folder = train if train.is_dir() else self._split_folder(split)
            self._folders = sorted(self._class_folders(folder))
        if not self._folders:
            raise DataError(f"{folder}: no class folders ({describe(folder)}); expected {_LAYOUT}.")
        check_names(folder, self._folders, self.findings)
        self.num_classes = len(self._folders)
        self.class_names = self._read_names()
        self.class_colors = palette(self.num_classes)
        self.class_ids = list(range(self.num_classes))

    def _listed_classes(self, split: str) -> list[str]:
        if self._split_file(self.train_split).is_file():
            split = self.train_split
        images = self._list(split, keep=True)
        if images and all(image.number is not None for image in images):
            return [str(number) for number in range(1 + max(image.number or 0 for image in images))]
        return sorted({normal(image.label) for image in images})

    def _read_names(self) -> list[str]:
        path = self.root / (self.words or "words.txt")
        if path.is_file():
            return read_class_names(path, self._folders)
        if self.words is not None:
            raise DataError(f"words={self.words!r}: there is no file {path}.")
        return list(self._folders)
