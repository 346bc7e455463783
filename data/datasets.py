"""Datasets: samples of one split as dictionaries, seeded by the sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dyvision.data.drawing import draw_sample
from dyvision.data.errors import DataError
from dyvision.data.files import ImageReader
from dyvision.data.pipeline import Pipeline, TaskName
from dyvision.data.samplers import SampleKey

ToTensor = Callable[[NDArray[Any]], Tensor]

#: What training does with a sample that cannot be read.
OnBadSample = Literal["error", "skip"]

# so many samples in a row that cannot be read are a fault of the data set or of the pipeline, not of a file
_TRIES = 20
# any size: the image only keeps the place of one that could not be read
_BLANK = np.zeros((256, 256, 3), dtype=np.uint8)


class VisionDataset(Dataset[dict[str, Any]], ABC):
    """Samples of one split as dictionaries.

    Index it with an int, or with the ``SampleKey`` of a sampler, which brings the seed of the random transforms.

    Args:
        pipeline: Transforms of this split.
        to_tensor: Turns the transformed image into what the network gets.
        class_names: Names of the classes.
        class_colors: ``[r, g, b]`` of each.
        reader: How its pictures are read.
    """

    task: TaskName
    #: ``"skip"`` draws another sample for one that cannot be read and says so in its ``skipped``, a list of messages.
    #: Which one depends on the sample's seed only, not on workers. The data module sets it for training; evaluation
    #: never skips.
    on_bad_sample: OnBadSample = "error"

    def __init__(
        self,
        pipeline: Pipeline,
        to_tensor: ToTensor,
        class_names: Sequence[str] = (),
        class_colors: Sequence[Sequence[int]] = (),
        reader: ImageReader | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.reader = ImageReader() if reader is None else reader
        self.to_tensor = to_tensor
        self.class_names = list(class_names)
        self.class_colors = [list(color) for color in class_colors]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    def paths(self) -> list[str]:
        """Image file of each sample; empty if the dataset does not say."""
        return []

    def strata(self) -> list[int] | None:
        """Class of each sample, for a division that keeps the shares of the classes; None if it has no single one."""
        return None

    def select(self, positions: Sequence[int]) -> None:
        """Keeps the samples at these positions only.

        Raises:
            NotImplementedError: If the dataset cannot do that.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be divided: it has no method select")

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
        read = self._read_or_replace if self.on_bad_sample == "skip" else self.read
        return {"task": self.task, "valid": valid, **read(index % len(self), seed)}

    def _read_or_replace(self, index: int, seed: int) -> dict[str, Any]:
        draw = np.random.default_rng(seed)
        skipped: list[str] = []
        for _ in range(_TRIES):
            try:
                return {**self.read(index, seed), "skipped": skipped}
            except DataError as error:
                skipped.append(str(error))
                index = int(draw.integers(len(self)))
        raise DataError(
            f"{skipped[0].rstrip('.')}; none of {_TRIES - 1} samples drawn in its place can be used either, the last "
            f"because: {skipped[-1]}"
        )

    def plot(self, sample: dict[str, Any]) -> Image.Image:
        """Draws a sample of this dataset with its labels."""
        return draw_sample(sample, self.class_names, self.class_colors, self.to_tensor)


class PredictDataset(VisionDataset):
    """Images without labels.

    Args:
        paths: Image files.
        task: Whose batches these become.
        pipeline: Evaluation transforms.
        to_tensor: As for ``VisionDataset``.
        image_ids: For results files that name images by number; 1, 2, ... by default.
        **options: ``class_names``, ``class_colors`` and ``reader``.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        task: TaskName,
        pipeline: Pipeline,
        to_tensor: ToTensor,
        image_ids: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(pipeline, to_tensor, **options)
        self.task = task
        self._paths = [str(path) for path in paths]
        self._image_ids = list(image_ids) if image_ids is not None else list(range(1, len(paths) + 1))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._paths)

    def paths(self) -> list[str]:
        """The image files."""
        return list(self._paths)

    def read(self, index: int, seed: int) -> dict[str, Any]:
        """``image``, ``path``, ``original_size`` and ``image_id``.

        An image that cannot be read does not end ``predict``: its sample is blank, not valid, and says why in
        ``failed``.
        """
        path = self._paths[index]
        failed: dict[str, Any] = {}
        try:
            pixels = self.reader(path, labelled=False)
            image = self.pipeline(pixels, seed, path=path).image
        except DataError as error:
            failed = {"failed": str(error), "valid": False}
            pixels = image = _BLANK
        size = (pixels.shape[0], pixels.shape[1])
        image_id = self._image_ids[index]
        sample = {"image": self.to_tensor(image), "path": path, "original_size": size, "image_id": image_id}
        return {**sample, **failed}
