"""What all datasets and data modules share: seeded samples, loaders, classes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dyvision.arguments import check_number
from dyvision.data.errors import DataError, describe
from dyvision.data.files import find_images, read_image
from dyvision.data.loaders import TrainLoader, collate, init_worker
from dyvision.data.pipeline import Pipeline, TaskName
from dyvision.data.samplers import EvalSampler, SampleKey, TrainSampler

ToTensor = Callable[[NDArray[Any]], Tensor]

_LARGEST_BATCH = 1_000_000
_MOST_WORKERS = 1024


class VisionDataset(Dataset[dict[str, Any]], ABC):
    """Samples of one split as dictionaries.

    Index it with an int, or with the ``SampleKey`` of a sampler, which brings the seed of the random transforms.

    Args:
        pipeline: Transforms of this split.
        to_tensor: Turns the transformed image into what the network gets.
        class_names: Names of the classes.
        class_colors: ``[r, g, b]`` of each.
    """

    task: TaskName

    def __init__(
        self,
        pipeline: Pipeline,
        to_tensor: ToTensor,
        class_names: Sequence[str] = (),
        class_colors: Sequence[Sequence[int]] = (),
    ) -> None:
        self.pipeline = pipeline
        self.to_tensor = to_tensor
        self.class_names = list(class_names)
        self.class_colors = [list(color) for color in class_colors]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def read(self, index: int, seed: int) -> dict[str, Any]:
        """Reads and transforms one sample; keys as in the batch."""

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        """One sample.

        Raises:
            DataError: If a file of it is broken; the message names the file.
            IndexError: If there is no such sample.
        """
        index, seed, valid = key if isinstance(key, SampleKey) else SampleKey(key, seed=max(key, 0))
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} samples")
        return {"task": self.task, "valid": valid, **self.read(index % len(self), seed)}

    def plot(self, sample: dict[str, Any]) -> Any:
        """Draws a sample of this dataset with its labels.

        Returns:
            A ``PIL.Image.Image``.
        """
        from dyvision.data.plot import plot_sample

        return plot_sample(sample, self)


class PredictDataset(VisionDataset):
    """Images without labels.

    Args:
        paths: Image files.
        task: Whose batches these become.
        pipeline: Evaluation transforms.
        to_tensor: As for ``VisionDataset``.
        image_ids: For results files that name images by number; 1, 2, ... by default.
        **classes: ``class_names`` and ``class_colors``.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        task: TaskName,
        pipeline: Pipeline,
        to_tensor: ToTensor,
        image_ids: Sequence[int] | None = None,
        **classes: Any,
    ) -> None:
        super().__init__(pipeline, to_tensor, **classes)
        self.task = task
        self._paths = [str(path) for path in paths]
        self._image_ids = list(image_ids) if image_ids is not None else list(range(1, len(paths) + 1))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._paths)

    def read(self, index: int, seed: int) -> dict[str, Any]:
        """``image``, ``path``, ``original_size`` and ``image_id``."""
        path = self._paths[index]
        pixels = read_image(path)
        image = self.pipeline(pixels, seed, path=path).image
        size = (pixels.shape[0], pixels.shape[1])
        image_id = self._image_ids[index]
        return {"image": self.to_tensor(image), "path": path, "original_size": size, "image_id": image_id}


class VisionDataModule(L.LightningDataModule, ABC):
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
    ) -> None:
        super().__init__()
        check_number("batch_size", batch_size, minimum=1, maximum=_LARGEST_BATCH, integer=True)
        check_number(
            "eval_batch_size", eval_batch_size, minimum=1, maximum=_LARGEST_BATCH, integer=True, allow_none=True
        )
        check_number("num_workers", num_workers, minimum=0, maximum=_MOST_WORKERS, integer=True)
        check_number("seed", seed, minimum=0, maximum=2**32 - 1, integer=True)
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
            raise DataError(f"root={str(self.root)!r}: {describe(self.root)}; expected {layout}.")

    def predict_files(self) -> list[Path]:
        """Image files of ``predict_root``."""
        return find_images(self.predict_root) if self.predict_root is not None else []

    def setup(self, stage: str | None = None) -> None:
        """Builds the datasets of a stage: fit, validate, test, predict, or all of them."""
        stage = getattr(stage, "value", stage)  # Lightning passes an enumeration's value, people the enumeration
        if stage in (None, "fit") and "train" not in self.datasets:
            self.datasets["train"] = self._filled(self.build_dataset(self.train_split, train=True), self.train_split)
        if stage in (None, "fit", "validate") and "val" not in self.datasets:
            self.datasets["val"] = self._filled(self.build_dataset(self.val_split, train=False), self.val_split)
        if stage in (None, "test") and "test" not in self.datasets:
            split = self.test_split or self.val_split
            self.datasets["test"] = self._filled(self.build_dataset(split, train=False), split)
        if stage in (None, "predict") and "predict" not in self.datasets:
            self.datasets["predict"] = self.build_predict_dataset()

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
            progress=self._trained_batches,
            **self._options(),
        )

    def _trained_batches(self) -> int | None:
        trainer = self.trainer
        if trainer is None:
            return None
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        return int(progress.processed)

    def _eval_dataloader(self, dataset: VisionDataset) -> DataLoader[Any]:
        sampler = EvalSampler(dataset, seed=self.seed)
        batch_size = self.eval_batch_size or self.batch_size
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **self._options())

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, every sample once."""
        return self._eval_dataloader(self._dataset("val", "validate"))

    def test_dataloader(self) -> DataLoader[Any]:
        """In order, every sample once."""
        return self._eval_dataloader(self._dataset("test", "test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        """In order, without labels."""
        return self._eval_dataloader(self._dataset("predict", "predict"))
