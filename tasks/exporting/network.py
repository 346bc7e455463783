"""What of a task goes into a file: its network, and before and behind it what else is to be computed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.convert import fuse as fold_norms
from dyvision.export import ImageKind
from dyvision.export.deciding import DecidingNetwork
from dyvision.tasks.base import BaseTask
from dyvision.tasks.classification import ClassificationTask
from dyvision.tasks.detection import DetectionTask
from dyvision.tasks.heads.detection.exportable import ExportableDetector
from dyvision.tasks.segmentation import SegmentationTask
from dyvision.text import first_line

#: what is computed behind the network, by the names of the outputs
PROBABILITIES, LABEL_MAP, DETECTIONS = "probabilities", "label_map", "detections"


@dataclass(frozen=True)
class Wanted:
    """What is to be in a file.

    Attributes:
        image_size: Height and width.
        mean: Of the channels, for images in 0..1; None if unknown.
        std: Of the channels.
        preprocess: Whether the file takes bytes.
        postprocess: Whether it gives what is made of logits.
        fuse: Whether norms are folded into convolutions.
    """

    image_size: tuple[int, int]
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    preprocess: bool = False
    postprocess: bool = False
    fuse: bool = True

    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation.

        Raises:
            ValueError: If they are not known.
        """
        if self.mean is None or self.std is None:
            raise ValueError(
                "preprocess: mean and standard deviation are not known (the checkpoint has no data module of "
                "dyvision); leave it out"
            )
        return self.mean, self.std


@dataclass(frozen=True)
class Exportable:
    """A network for a file.

    Attributes:
        network: From images to tensors by name.
        images: What numbers the images are of, as :func:`dyvision.export.export_onnx` calls it.
        mean: What the images have to be normalised with, or are normalised with in the file; None if unknown.
        std: The same.
        postprocess: What is computed behind the network; ``"none"`` for logits.
    """

    network: nn.Module
    images: ImageKind
    mean: Sequence[float] | None
    std: Sequence[float] | None
    postprocess: str


class FromBytes(nn.Module):
    """A network in front of which bytes are made numbers as in the data modules.

    Args:
        network: Takes normalised images.
        mean: Per channel, for images in 0..1.
        std: Per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Any:
        """Images uint8 ``[B, C, H, W]``."""
        return self.network((images.to(self.mean.dtype) / 255 - self.mean) / self.std)


class Logits(nn.Module):
    """A network whose output is called ``logits``, or what is made of it."""

    def __init__(self, network: nn.Module, postprocess: str = "none") -> None:
        super().__init__()
        self.network, self.postprocess = network, postprocess

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``logits``; ``probabilities`` of the classes; or ``label_map`` ``[B, H, W]``."""
        logits = self.network(images)
        if self.postprocess == PROBABILITIES:
            return {PROBABILITIES: logits.softmax(1)}
        if self.postprocess == LABEL_MAP:
            return {LABEL_MAP: logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int64)}
        return {"logits": logits}


class DetectorOfBytes(DecidingNetwork):
    """A detector in front of which bytes are divided by 255; it normalises itself."""

    def __init__(self, detector: DecidingNetwork, channels: int) -> None:
        super().__init__()
        self.detector, self.outputs = detector, detector.outputs
        self.dense = FromBytes(detector.dense, [0.0] * channels, [1.0] * channels)

    def decide(self, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the detector."""
        return self.detector.decide(dense)

    def disagreement(self, dense: Mapping[str, Tensor], decided: Mapping[str, Tensor], slack: float) -> float:
        """As of the detector."""
        return self.detector.disagreement(dense, decided, slack)


@singledispatch
def make_exportable(task: BaseTask, wanted: Wanted) -> Exportable:
    """Make of a task what a file holds.

    Args:
        task: With a network.
        wanted: What is to be in the file.

    Raises:
        ValueError: If it cannot be done, with the reason.
    """
    raise ValueError(f"{type(task).__name__} is a task of its own: export its network with dyvision.export.export_onnx")


@make_exportable.register
def _classifier(task: ClassificationTask, wanted: Wanted) -> Exportable:
    return _with_logits(task, wanted, PROBABILITIES)


@make_exportable.register
def _segmenter(task: SegmentationTask, wanted: Wanted) -> Exportable:
    return _with_logits(task, wanted, LABEL_MAP)


@make_exportable.register
def _detector(task: DetectionTask, wanted: Wanted) -> Exportable:
    detector: Any = task.built_network
    network: DecidingNetwork = ExportableDetector(detector, wanted.image_size).eval()
    if wanted.fuse:
        network.dense = _folded(network.dense, task, wanted)
    transform = detector.model.transform
    if wanted.preprocess:
        network = DetectorOfBytes(network, task.hparams.in_chans)
    images: ImageKind = "bytes" if wanted.preprocess else "unit"
    return Exportable(network, images, list(transform.image_mean), list(transform.image_std), DETECTIONS)


def _with_logits(task: BaseTask, wanted: Wanted, postprocess: str) -> Exportable:
    network = task.built_network.eval()
    if wanted.fuse:
        network = _folded(network, task, wanted)
    postprocess = postprocess if wanted.postprocess else "none"
    network = Logits(network, postprocess)
    if wanted.preprocess:
        network = FromBytes(network, *wanted.statistics())
    return Exportable(network, "bytes" if wanted.preprocess else "normalised", wanted.mean, wanted.std, postprocess)


def _folded(network: nn.Module, task: BaseTask, wanted: Wanted) -> nn.Module:
    shape = (2, task.hparams.in_chans, *wanted.image_size)
    try:
        with torch.no_grad():
            network(torch.zeros(shape, dtype=next(network.parameters()).dtype))
    except Exception as error:
        raise ValueError(
            f"image size {wanted.image_size[0]}x{wanted.image_size[1]}: the network cannot take such images "
            f"({first_line(error)}); give another one"
        ) from error
    return fold_norms(network, shape)
