"""Loaders: samples to batches, and a training loader that resumes in the middle of an epoch."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from dyvision.data.errors import DataError
from dyvision.data.samplers import TrainSampler

#: Value of a label map that counts as no label.
IGNORE_INDEX = 255

_log = logging.getLogger(__name__)


def init_worker(worker: int) -> None:
    """Keeps OpenCV to one thread in a worker: N workers with a thread per core each would fight for the cores."""
    cv2.setNumThreads(0)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Makes the batch that the tasks expect (``docs/architecture.md``) from the samples of one dataset.

    Classification images are stacked. Segmentation images of different sizes are padded at the bottom and the right,
    images with 0 (the mean, once normalised) and masks with 255; ``size`` holds the images' sizes before that, and
    ``mask_size`` those of the masks where they differ (evaluation compares with the stored label map). Detection images
    stay a list.

    Args:
        samples: Non-empty; all from one dataset.

    Returns:
        One value per key of the samples: ``image`` and ``mask`` as tensors or a list, ``label`` int64 ``[B]``,
        ``valid`` bool ``[B]``, everything else a list.

    Raises:
        DataError: If classification images differ in size.
    """
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    batch["valid"] = torch.tensor(batch["valid"], dtype=torch.bool)
    if "label" in batch:
        batch["label"] = torch.tensor(batch["label"], dtype=torch.int64)
    kind = batch.pop("task")[0]
    if kind == "classification":
        batch["image"] = _stack(batch["image"], batch["path"])
    elif kind == "segmentation":
        batch["size"] = [tuple(image.shape[-2:]) for image in batch["image"]]
        batch["image"] = _pad(batch["image"], 0)
        if "mask" in batch:
            sizes = [tuple(mask.shape[-2:]) for mask in batch["mask"]]
            if sizes != batch["size"]:
                batch["mask_size"] = sizes
            batch["mask"] = _pad(batch["mask"], IGNORE_INDEX)
    return batch


def _stack(images: list[Tensor], paths: list[str]) -> Tensor:
    for image, path in zip(images, paths, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"images of one batch have different sizes after the transforms: {tuple(images[0].shape[1:])} "
                f"({paths[0]}) and {tuple(image.shape[1:])} ({path}); end the pipeline with a Resize or a crop."
            )
    return torch.stack(images)


def _pad(tensors: list[Tensor], value: int) -> Tensor:
    height = max(tensor.shape[-2] for tensor in tensors)
    width = max(tensor.shape[-1] for tensor in tensors)
    return torch.stack(
        [F.pad(tensor, (0, width - tensor.shape[-1], 0, height - tensor.shape[-2]), value=value) for tensor in tensors]
    )


class TrainLoader(DataLoader[Any]):
    """A ``DataLoader`` with ``state_dict`` and ``load_state_dict``, which Lightning saves and restores.

    A run stopped in mid-epoch goes on with exactly the batches it had not seen, without decoding the others. The length
    stays that of a whole epoch.

    Args:
        *args: As for ``torch.utils.data.DataLoader``.
        progress: How many batches of this epoch were trained on, or None if nobody knows. It differs from the number
            handed out when training stops inside a step. By default, what was handed out.
        position: Asked once an iteration starts: a state to go on from that was not given to ``load_state_dict``, or
            None.
        **kwargs: As for ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        *args: Any,
        progress: Callable[[], int | None] | None = None,
        position: Callable[[], dict[str, int] | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._progress = progress
        self._position = position
        self._handed_out = 0
        self._resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing happens before the first batch is asked for. Lightning calls iter() before it sets the
        # epoch, and workers would already fetch the wrong epoch's samples.
        skip = self._batches_to_skip()
        self._handed_out = skip
        unread = skip
        if isinstance(self.sampler, TrainSampler):
            self.sampler.start = skip * (self.batch_size or 1)
            unread = 0
        for batch in itertools.islice(super().__iter__(), unread, None):
            self._handed_out += 1
            yield batch

    def _batches_to_skip(self) -> int:
        stored = self._position() if self._position is not None else None
        resume, self._resume = self._resume or stored, None
        if resume is None or resume["epoch"] != self._plan()["epoch"]:
            return 0
        changed = [key for key, value in self._plan().items() if resume.get(key) != value]
        if changed:
            _log.warning(
                "The data loader changed since the checkpoint was saved (%s): this epoch starts from its first batch.",
                ", ".join(f"{key} {resume.get(key)} -> {self._plan()[key]}" for key in changed),
            )
            return 0
        # a checkpoint of a finished epoch: what follows is a new one
        return resume["batches"] if resume["batches"] < len(self) else 0

    def _plan(self) -> dict[str, int]:
        if not isinstance(self.sampler, TrainSampler):
            return {"epoch": 0}
        return {
            "epoch": self.sampler.epoch,
            "seed": self.sampler.seed,
            "samples": len(self.sampler.dataset),  # type: ignore[arg-type]
            "processes": self.sampler.num_replicas,
            "batch_size": self.batch_size or 1,
        }

    def state_dict(self) -> dict[str, int]:
        """Where in which epoch this loader is."""
        known = self._progress() if self._progress is not None else None
        return {**self._plan(), "batches": self._handed_out if known is None else known}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The next iteration over the same epoch leaves out the batches already trained on."""
        self._resume = dict(state_dict)
