"""Loaders: samples to batches, workers that cannot hang, and a training loader that resumes in mid-epoch."""

from __future__ import annotations

import itertools
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from dyvision.data.errors import DataError
from dyvision.data.samplers import TrainSampler
from dyvision.text import one_line, some

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

    A sample that could not be read (``failed``) keeps its place as a copy of a good one that is not ``valid``.

    Args:
        samples: Non-empty; all from one dataset.

    Returns:
        One value per key of the samples: ``image`` and ``mask`` as tensors or a list, ``label`` int64 ``[B]``,
        ``valid`` bool ``[B]``, everything else a list; ``failed`` (a message or None per sample) only if there is one,
        ``skipped`` only as the messages of all samples.

    Raises:
        DataError: If classification images differ in size, or, in a worker, if shared memory is full.
    """
    failed = [sample.pop("failed", None) for sample in samples]
    skipped = [message for sample in samples for message in sample.pop("skipped", ())]
    good = next((sample for sample, reason in zip(samples, failed, strict=True) if reason is None), None)
    if good is not None:
        own = ("path", "valid", "image_id")
        samples = [
            sample if reason is None else {**good, **{key: sample[key] for key in own if key in sample}}
            for sample, reason in zip(samples, failed, strict=True)
        ]
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    if any(failed):
        batch["failed"] = failed
    if skipped:
        batch["skipped"] = skipped
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
    if get_worker_info() is not None:
        _share(batch)
    return batch


def _share(value: Any) -> None:
    """Moves the tensors of a batch to shared memory, as the queue to the main process would.

    The queue does so in a thread of its own; without room there it drops the batch, and the main process waits for it
    forever. Here it is an error like any other.
    """
    if isinstance(value, Tensor):
        if value.numel():
            try:
                value.share_memory_()
            except RuntimeError as error:
                raise DataError(_no_shared_memory(error)) from error
    elif isinstance(value, dict):
        for item in value.values():
            _share(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _share(item)


def _no_shared_memory(error: Exception) -> str:
    room = ""
    with suppress(OSError):
        usage = shutil.disk_usage("/dev/shm")
        room = f" (/dev/shm: {usage.free / 2**20:.1f} of {usage.total / 2**20:.1f} MB free)"
    reason = one_line(error)
    return (
        f"the worker processes cannot hand over a batch in shared memory{room}: set data.num_workers to 0, make "
        f"batches smaller, or give the machine more of it (docker run --shm-size=2g); {reason}"
    )


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


class Loader(DataLoader[Any]):
    """A ``DataLoader`` whose workers, if they cannot start, say which option helps."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            if self.num_workers:
                # what workers need; PyTorch's iterator leaves a traceback behind if it gets only a part of it
                context = self.multiprocessing_context or torch.multiprocessing.get_context()
                probe = [(context.Queue(), context.Event()) for _ in range(self.num_workers + 1)]
                del probe
            batches = super().__iter__()
        except (OSError, RuntimeError) as error:
            if not self.num_workers:
                raise
            raise DataError(
                f"the {self.num_workers} worker processes could not be started ({one_line(error)}): set "
                "data.num_workers to 0, or to fewer."
            ) from error
        yield from batches


class TrainLoader(Loader):
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
        self._begun: int | None = None  # the epoch of the last iteration
        self._resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing happens before the first batch is asked for. Lightning calls iter() before it sets the
        # epoch, and workers would already fetch the wrong epoch's samples.
        skip = self._batches_to_skip()
        self._handed_out, self._begun = skip, self._plan()["epoch"]
        unread = skip
        if isinstance(self.sampler, TrainSampler):
            self.sampler.start = skip * (self.batch_size or 1)
            unread = 0
        skipped: dict[str, None] = {}
        try:
            for batch in itertools.islice(super().__iter__(), unread, None):
                self._handed_out += 1
                if isinstance(batch, dict):  # a loader of somebody's own collate_fn may give anything
                    skipped.update(dict.fromkeys(batch.pop("skipped", ())))
                yield batch
        finally:
            self._report(list(skipped))

    def _report(self, skipped: list[str]) -> None:
        if skipped:
            warnings.warn(
                f"epoch {self._plan()['epoch'] + 1}: {len(skipped)} samples could not be used, others took their place "
                f"(on_bad_sample is 'skip'): {some(skipped, 10)}",
                stacklevel=3,
            )

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
        plan = self._plan()
        if self._begun not in (None, plan["epoch"]):
            return {**plan, "batches": 0}  # between two epochs: the counters are still those of the one before
        known = self._progress() if self._progress is not None else None
        return {**plan, "batches": self._handed_out if known is None else known}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The next iteration over the same epoch leaves out the batches already trained on."""
        self._resume = dict(state_dict)
