"""What all data modules share: splits, loaders, classes."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dyvision.data.arguments import DataArguments
from dyvision.data.checkpoint import CheckpointMixin
from dyvision.data.datasets import OnBadSample, PredictDataset, ToTensor, VisionDataset
from dyvision.data.errors import DataError, describe, looked_up
from dyvision.data.files import find_images
from dyvision.data.findings import Findings
from dyvision.data.loaders import Loader, TrainLoader, collate, init_worker
from dyvision.data.pipeline import TaskName
from dyvision.data.preprocessing import PreprocessingMixin
from dyvision.data.resume import ResumableData
from dyvision.data.same_files import file_codes, shared_images
from dyvision.data.samplers import EvalSampler, TrainSampler
from dyvision.data.splits import choose_validation

__all__ = ("OnBadSample", "PredictDataset", "ToTensor", "VisionDataModule", "VisionDataset")


class VisionDataModule(CheckpointMixin, ResumableData, PreprocessingMixin, DataArguments, ABC):
    """Loaders and classes; a subclass says how a split is read.

    The classes (``num_classes``, ``class_names``, ``class_colors``, ``class_ids``) are known after ``setup`` at the
    latest; without labels at hand (``predict`` on a bare folder of images) they stay None and empty.

    A subclass declares the arguments of its own and those whose default it changes, and hands all others on::

        def __init__(self, *args: Any, image_size: int = 64, batch_size: int = 16, **kwargs: Any) -> None:
            super().__init__(*args, batch_size=batch_size, **kwargs)

    Attributes:
        findings: What the readers repaired or doubt; ``setup`` tells it. One that collects is given by a check of the
            whole data set.

    Raises:
        ValueError: If a number is out of range.
    """

    task: TaskName

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.findings = Findings()
        self.num_classes: int | None = None
        self.class_names: list[str] = []
        self.class_colors: list[list[int]] = []
        self.class_ids: list[int] = []
        self.datasets: dict[str, VisionDataset] = {}

    @abstractmethod
    def build_dataset(self, split: str, train: bool) -> VisionDataset:
        """The dataset of a split, with training or evaluation transforms; sets the classes if they are not known yet.

        Raises:
            DataError: If the data on disk is not what is expected.
        """

    @abstractmethod
    def build_predict_dataset(self) -> VisionDataset:
        """The images of ``predict_root``, or those of the validation split."""

    def require_root(self, layout: str) -> None:
        """Checks that ``root`` is a folder with something in it.

        Raises:
            DataError: If not; the message tells the layout expected.
        """
        if not self.root.is_dir() or not any(self.root.iterdir()):
            raise DataError(f"root={str(self.root)!r}{looked_up(self.root)}: {describe(self.root)}; expected {layout}.")

    def read_image(self, path: str | Path) -> NDArray[np.uint8]:
        """A picture as ``predict`` sees it before its transforms, uint8 ``[H, W, 3]``, to draw predictions on.

        Raises:
            DataError: If the file is missing or cannot be decoded; the message names it.
        """
        return self.reader(path, labelled=False)

    def images_to_predict(
        self,
        files: Sequence[Path],
        image_ids: Sequence[int] | None = None,
        reader: Callable[..., NDArray[np.uint8]] | None = None,
    ) -> PredictDataset:
        """Images with the transforms that prediction has.

        Args:
            files: The image files.
            image_ids: For results that name images by number; 1, 2, ... by default.
            reader: Reads what is no file, by what stands for it in ``files``.

        Raises:
            DataError: If the data module has no evaluation pipeline of dyvision's kind.
        """
        pipeline, make_tensor = getattr(self, "_eval_pipeline", None), getattr(self, "_to_tensor", None)
        if pipeline is None or make_tensor is None:
            raise DataError(f"{type(self).__name__} has no pipeline of dyvision's to predict with.")
        options = self._dataset_options()
        options = options if reader is None else {**options, "reader": reader}
        return PredictDataset(files, self.task, pipeline, make_tensor(), image_ids, **options)

    def predict_files(self) -> list[Path]:
        """Image files of ``predict_root``."""
        return find_images(self.predict_root, self.findings) if self.predict_root is not None else []

    def check_labels(self, dataset: VisionDataset) -> None:
        """Looks at the labels of the training split, as far as that takes no time; reports to ``findings``.

        Raises:
            DataError: If nothing could be learnt from them.
        """

    def _dataset_options(self) -> dict[str, Any]:
        self.reader.findings = self.findings if self.findings.collect else None
        return {"class_names": self.class_names, "class_colors": self.class_colors, "reader": self.reader}

    def setup(self, stage: str | None = None) -> None:
        """Builds the datasets of a stage: fit, validate, test, predict, or all of them."""
        stage = getattr(stage, "value", stage)  # Lightning passes an enumeration's value, people the enumeration
        self._take_channels()
        self.take_preprocessing()
        if stage in (None, "fit") and "train" not in self.datasets:
            self.datasets["train"] = self._filled(self.build_dataset(self.train_split, train=True), self.train_split)
            if "val" not in self.datasets:
                self.datasets["val"] = self.build_validation_dataset()
            self._separate(self.datasets["train"], self.datasets["val"])
            self.check_labels(self.datasets["train"])
        if stage in (None, "validate") and "val" not in self.datasets:
            self.datasets["val"] = self.build_validation_dataset()
        if stage in (None, "test") and "test" not in self.datasets:
            split = self.test_split
            self.datasets["test"] = (
                self.build_validation_dataset()
                if split is None
                else self._filled(self.build_dataset(split, train=False), split)
            )
        if stage in (None, "predict") and "predict" not in self.datasets:
            self.datasets["predict"] = self.build_predict_dataset()
        self.findings.report()

    def build_validation_dataset(self) -> VisionDataset:
        """The validation split, or with ``val_fraction`` its part of the training split.

        Raises:
            DataError: If it has no samples.
        """
        if self.val_fraction is None:
            return self._filled(self.build_dataset(self.val_split, train=False), self.val_split)
        dataset = self._filled(self.build_dataset(self.train_split, train=False), self.train_split)
        names = [os.path.relpath(path, self.root) for path in dataset.paths()]
        try:
            dataset.select(choose_validation(names, self.val_fraction, self.val_seed, dataset.strata()))
        except ValueError as error:
            raise DataError(f"{self.root}: val_fraction={self.val_fraction}: {error}.") from error
        return dataset

    def _separate(self, train: VisionDataset, val: VisionDataset) -> None:
        """Takes the images of validation out of training, or refuses to train where nobody asked for that."""
        if self.val_fraction is not None:
            evaluated = np.isin(file_codes(train.paths()), file_codes(val.paths()))
            train.select(np.flatnonzero(~evaluated).tolist())
            self._filled(train, self.train_split)
            return
        both = shared_images(train.paths(), val.paths())
        if both:
            raise DataError(
                f"{self.root}: {len(both)} of the {len(val)} images of val_split={self.val_split!r} are images of "
                f"train_split={self.train_split!r} (such as {both[0]}), so the metrics would say nothing about new "
                "images; set val_fraction (such as 0.2) to keep a part of the training images for validation, or give "
                "val_split other ones."
            )

    def _take_channels(self) -> None:
        model = getattr(self.trainer, "lightning_module", None)
        wanted = getattr(model, "hparams", {}).get("in_chans") if model is not None else None
        self.take_channels(wanted)
        if wanted not in (None, self.channels):
            raise ValueError(
                f"the model takes images of {wanted} channels (model.in_chans), the data gives {self.channels} "
                "(data.in_chans: 1, grey, or 3)."
            )

    def take_channels(self, wanted: int | None) -> None:
        """Give images of as many channels as a network takes, where the user has not said how many."""
        if self.in_chans is None and wanted in (1, 3) and wanted != self.channels:
            self.in_chans = wanted

    @property
    def channels(self) -> int:
        """Channels of the images, 1 or 3."""
        return self.in_chans or 3

    def evaluation_size(self) -> tuple[int, int] | None:
        """Height and width that evaluation brings every image to; None if they depend on the image."""
        pipeline: Any = getattr(self, "_eval_pipeline", None)
        if pipeline is None:
            return None
        blank = (np.zeros((height, width, 3), np.uint8) for height, width in ((480, 640), (500, 375)))
        try:
            sizes = {pipeline(image, self.seed).image.shape[:2] for image in blank}
        except DataError:  # a pipeline for images of certain sizes
            return None
        return sizes.pop() if len(sizes) == 1 else None

    def _filled(self, dataset: VisionDataset, split: str) -> VisionDataset:
        if len(dataset) == 0:
            raise DataError(f"{self.root}: the split {split!r} has no samples.")
        return dataset

    def _options(self) -> dict[str, Any]:
        init_worker(0)  # with num_workers=0 this process is the worker: OpenCV's threads would fight with torch's
        pin_memory = torch.cuda.is_available() if self.pin_memory is None else self.pin_memory
        return {
            "num_workers": self.num_workers,
            "pin_memory": pin_memory,
            "persistent_workers": self.persistent_workers and self.num_workers > 0,
            "worker_init_fn": init_worker,
            "collate_fn": collate,
            # its own: a loader without one draws from the global generator, and then dropout would depend on how often
            # validation runs
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _dataset(self, name: str, stage: str) -> VisionDataset:
        if name not in self.datasets:
            self.setup(stage)
        return self.datasets[name]

    def train_dataloader(self) -> TrainLoader:
        """Shuffled, augmented; resumes in mid-epoch."""
        dataset = self._dataset("train", "fit")
        sampler = TrainSampler(dataset, seed=self.seed)
        dataset.on_bad_sample = self.on_bad_sample
        drop_last = self.drop_last
        if drop_last and len(sampler) < self.batch_size:
            warnings.warn(
                f"{self.root}: the training split has {len(sampler)} samples per process, fewer than "
                f"batch_size={self.batch_size}; they are used as one smaller batch.",
                stacklevel=2,
            )
            drop_last = False
        return TrainLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            progress=self.trained_batches,
            position=self.take_stored_position,
            **self._options(),
        )

    def _eval_dataloader(self, dataset: VisionDataset) -> DataLoader[Any]:
        sampler = EvalSampler(dataset, seed=self.seed)
        batch_size = self.eval_batch_size or self.batch_size
        return Loader(dataset, batch_size=batch_size, sampler=sampler, **self._options())

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, every sample once."""
        return self._eval_dataloader(self._dataset("val", "validate"))

    def test_dataloader(self) -> DataLoader[Any]:
        """In order, every sample once."""
        return self._eval_dataloader(self._dataset("test", "test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        """In order, without labels."""
        return self._eval_dataloader(self._dataset("predict", "predict"))
