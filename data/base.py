"""What all data modules share: splits, loaders, classes."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dyvision.arguments import check_number
from dyvision.data.checkpoint import CheckpointMixin
from dyvision.data.datasets import OnBadSample, PredictDataset, ToTensor, VisionDataset
from dyvision.data.errors import DataError, describe, looked_up
from dyvision.data.files import ImageReader, find_images
from dyvision.data.findings import Findings
from dyvision.data.loaders import Loader, TrainLoader, collate, init_worker
from dyvision.data.pipeline import TaskName
from dyvision.data.resume import ResumableData
from dyvision.data.samplers import EvalSampler, TrainSampler
from dyvision.data.splits import choose_validation, shared_images

__all__ = ("OnBadSample", "PredictDataset", "ToTensor", "VisionDataModule", "VisionDataset")


class VisionDataModule(CheckpointMixin, ResumableData, ABC):
    """Loaders and classes; a subclass says how a split is read.

    The classes (``num_classes``, ``class_names``, ``class_colors``, ``class_ids``) are known after ``setup`` at the
    latest; without labels at hand (``predict`` on a bare folder of images) they stay None and empty.

    Args:
        root: Folder of the data set.
        batch_size: Samples per process in a training batch.
        eval_batch_size: The same in evaluation and prediction; ``batch_size`` if None.
        num_workers: Processes that load data; 0 loads in the main process.
        train_split: Name of the training split.
        val_split: Name of the validation split.
        test_split: Name of the split that ``test`` evaluates; ``val_split`` if None.
        predict_root: Folder of images (at any depth) or one image for ``predict``; the validation images if None.
        seed: Seed of order and augmentation.
        drop_last: Leave out a last, smaller training batch.
        pin_memory: Page-locked memory for faster copies to a GPU; if None, when there is a GPU.
        persistent_workers: Keep workers between epochs.
        val_fraction: Validate on this share of the training split, chosen by ``val_seed``, instead of on ``val_split``;
            the rest is trained on.
        val_seed: Seed of that choice.
        in_chans: Channels of the images, 1 (grey) or 3; None takes them from the model, else 3.
        reader: How pictures are read.
        on_bad_sample: What training does with a sample that cannot be read: ``"error"`` ends it; ``"skip"`` draws
            another in its place, and each epoch warns of their number and names. Evaluation always ends.

    Attributes:
        findings: What the readers repaired or doubt; ``setup`` tells it. One that collects is given by a check of the
            whole data set.

    Raises:
        ValueError: If a number is out of range.
    """

    task: TaskName

    def __init__(
        self,
        root: str | Path,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        train_split: str,
        val_split: str,
        test_split: str | None,
        predict_root: str | Path | None,
        seed: int,
        drop_last: bool,
        pin_memory: bool | None,
        persistent_workers: bool,
        val_fraction: float | None = None,
        val_seed: int = 0,
        in_chans: int | None = None,
        reader: ImageReader | None = None,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        super().__init__()
        images: dict[str, Any] = {"minimum": 1, "maximum": 1_000_000, "integer": True}
        check_number("batch_size", batch_size, **images)
        check_number("eval_batch_size", eval_batch_size, **images, allow_none=True)
        check_number("num_workers", num_workers, minimum=0, maximum=1024, integer=True)
        check_number("seed", seed, minimum=0, maximum=2**32 - 1, integer=True)
        if on_bad_sample not in get_args(OnBadSample):
            raise ValueError(f"on_bad_sample={on_bad_sample!r}: expected 'error' or 'skip'.")
        check_number("val_fraction", val_fraction, above=0, below=1, allow_none=True)
        check_number("val_seed", val_seed, minimum=0, maximum=2**32 - 1, integer=True)
        if in_chans not in (None, 1, 3):
            raise ValueError(f"in_chans={in_chans}: expected 1 (grey) or 3.")
        self.root = Path(root).expanduser()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.predict_root = None if predict_root is None else Path(predict_root).expanduser()
        self.seed = seed
        self.drop_last = drop_last
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.on_bad_sample: OnBadSample = on_bad_sample
        self.val_fraction, self.val_seed = val_fraction, val_seed
        self.in_chans = in_chans
        self.reader = ImageReader() if reader is None else reader
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
            evaluated = set(val.paths())
            train.select([position for position, path in enumerate(train.paths()) if path not in evaluated])
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
        if wanted is None or wanted == self.channels:
            return
        if self.in_chans is not None or wanted not in (1, 3):
            raise ValueError(
                f"the model takes images of {wanted} channels (model.in_chans), the data gives {self.channels} "
                "(data.in_chans: 1, grey, or 3)."
            )
        self.in_chans = wanted

    @property
    def channels(self) -> int:
        """Channels of the images, 1 or 3."""
        return self.in_chans or 3

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
