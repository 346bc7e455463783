"""A task that is run by an exported file: its network calls ONNX Runtime, everything else is the task's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from dyvision.arguments import check_numbers, shown
from dyvision.building import LimitedMemory
from dyvision.checkpoint_file import warn_of_newer
from dyvision.export import OnnxModel
from dyvision.reading import parse_yaml
from dyvision.tasks.base import BaseTask
from dyvision.tasks.components import accepted_arguments
from dyvision.tasks.opening import task_class
from dyvision.text import printable
from dyvision.trust import hyperparameters_of, name_unknown
from dyvision.version import VERSION

#: outputs of the files of each task, any of which will do
_OUTPUTS = {
    "classification": (["logits"], ["probabilities"]),
    "segmentation": (["logits"], ["label_map"]),
    "detection": (["boxes", "scores", "labels", "count"],),
}


@dataclass(frozen=True)
class ExportedTask:
    """An ONNX file of a task.

    Attributes:
        file: Runs it.
        task: Name of the task.
        model: Hyperparameters of the task, as the file has them: of any origin.
        data: Those of the data module.
        mean: What the network's images are normalised with, as ``[C, 1, 1]``; None if unknown.
        std: The same.
        data_names: What the data calls the classes, where that is not what the task calls them.
    """

    file: OnnxModel
    task: str
    model: dict[str, Any]
    data: dict[str, Any]
    mean: Tensor | None
    std: Tensor | None
    data_names: list[str] | None = None

    @classmethod
    def read(cls, path: str | PathLike[str]) -> ExportedTask:
        """Read an ONNX file. Of its metadata nothing is imported or built.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no ONNX file, is damaged, or is none of a task.
        """
        file = OnnxModel(path)
        said = file.metadata
        task = said.get("task")
        if task not in _OUTPUTS:
            found = f"its task is '{printable(task)}'" if task else "its metadata names no task"
            raise ValueError(
                f"{file.path}: not an exported task of dyvision ({found}); dyvision.export.OnnxModel runs any network"
            )
        if sorted(file.outputs) not in [sorted(names) for names in _OUTPUTS[task]]:
            raise ValueError(
                f"{file.path}: its outputs are {printable(', '.join(file.outputs))}, expected those of {task}: "
                f"{' or '.join(', '.join(names) for names in _OUTPUTS[task])}"
            )
        sections = {name: _parsed(said, name, file.path) for name in ("model", "data")}
        for name, value in sections.items():
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise ValueError(
                    f"{file.path}: {name} of its metadata is no mapping of hyperparameters; export it again"
                )
        statistics = {name: _statistic(said, name, file) for name in ("mean", "std")}
        warn_of_newer(said, str(file.path), VERSION)
        names = _parsed(said, "data_class_names", file.path)
        names = names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
        return cls(
            file, task, dict(sections["model"] or {}), dict(sections["data"] or {}), **statistics, data_names=names
        )

    @property
    def size(self) -> int:
        """Bytes of the file and of the parameters beside it: more than it has parameters."""
        beside = self.file.path.with_name(f"{self.file.path.name}.data")
        return self.file.path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)

    def as_checkpoint(self) -> dict[str, Any]:
        """What the command line wants to know of a checkpoint."""
        return {
            "path": self.file.path,
            "weights": self.size,
            "task": self.task,
            "model": self.model,
            "data": self.data,
            "dyvision_version": self.file.metadata.get("dyvision_version"),
        }

    def run(self, task: BaseTask) -> None:
        """Let this file be a task's network.

        Raises:
            ValueError: If the file lacks what is needed.
        """
        path, num_classes = str(self.file.path), task.hparams.num_classes
        if num_classes is None:
            raise ValueError(f"{path}: its metadata lacks num_classes; export it again")
        if self.task == "detection":
            pads = task.hparams.get("min_size") is None
            task.network = OnnxDetector(
                self.file, num_classes, pads, torch.zeros(1) if self.mean is None else self.mean
            )
        elif self.file.dtype == torch.uint8 and (self.mean is None or self.std is None):
            raise ValueError(f"{path}: takes bytes, and its metadata lacks mean and std; export it again")
        else:
            task.network = OnnxNetwork(self.file, num_classes, self.mean, self.std)
        if self.file.outputs == ["label_map"]:
            inference = task.hparams.get("inference")
            if inference:
                raise ValueError(
                    f"{path}: gives label maps, and inference={shown(inference)} needs logits: export it without "
                    "--postprocess"
                )
            # of this one: there are no logits
            task.has_evaluation_loss = False  # type: ignore[misc]
        task.remember(path, self.task, self.model, self.data_names)


def load_exported(path: str | PathLike[str], trust: Collection[str] = ()) -> BaseTask:
    """The task of an ONNX file, run by ONNX Runtime; safe for a file of any origin.

    Args:
        path: A file of :func:`~dyvision.tasks.exporting.export_task` or ``dyvision export``.
        trust: Names that its hyperparameters may use although they are not dyvision's, as of ``load_from_checkpoint``.

    Returns:
        The task, for a trainer's ``validate``, ``test`` and ``predict``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, is damaged, or names other code.
    """
    exported = ExportedTask.read(path)
    where = str(exported.file.path)
    kind = task_class(exported.task, where)
    stored = hyperparameters_of(exported.model, where, (trust,) if isinstance(trust, str) else trust)
    arguments = name_unknown(stored, accepted_arguments(kind)[0], where)
    with LimitedMemory(exported.size, where):
        task = kind(**arguments)
    exported.run(task)
    return task.eval()


class OnnxNetwork(nn.Module):
    """Normalised images to logits, by a file that may take bytes, and may give what is made of logits.

    Args:
        file: Runs the file.
        num_classes: Number of classes.
        mean: What the images are normalised with; for a file that takes bytes.
        std: The same.
    """

    def __init__(
        self, file: OnnxModel, num_classes: int, mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        super().__init__()
        self.file, self.num_classes, self.mean, self.std = file, num_classes, mean, std

    def given(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """What the file is given for normalised images ``[C, H, W]`` of one size: themselves, or bytes."""
        batch = (images if isinstance(images, Tensor) else torch.stack(list(images))).detach().float().cpu()
        if self.file.dtype == torch.uint8 and self.mean is not None and self.std is not None:
            return _bytes(batch * self.std + self.mean)
        return batch

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``[B, C, H, W]``; of a file with label maps 1 for the class of each pixel, else 0."""
        ((name, found),) = self.file(self.given(images)).items()
        if name == "probabilities":
            found = found.float().clamp(min=torch.finfo(torch.float32).tiny).log()
        elif name == "label_map":
            self._check(int(found.max()) + 1 if found.numel() else 0, "classes", found.ndim == 3)
            found = F.one_hot(found.long(), self.num_classes).movedim(-1, 1)
        else:
            self._check(found.shape[1], "logits", found.shape[1] == self.num_classes)
        return found.float().to(images.device)

    def _check(self, count: int, what: str, right: bool) -> None:
        if not right or count > self.num_classes:
            raise ValueError(
                f"{self.file.path}: gives {count} {what} for num_classes={self.num_classes}; export it again"
            )


class OnnxDetector(nn.Module):
    """Detections of a file, with the interface of a detector.

    Args:
        file: Runs the file.
        num_classes: Number of classes.
        pads: Whether smaller images are padded to the file's size, as in a batch with larger ones; a detector that
            resizes images would scale them differently then.
        fill: What they are padded with, per channel: the mean, which is 0 once it is normalised.
    """

    predicts_masks = False

    def __init__(self, file: OnnxModel, num_classes: int, pads: bool, fill: Tensor) -> None:
        super().__init__()
        self.file, self.num_classes, self.pads, self.fill = file, num_classes, pads, fill.reshape(-1, 1, 1)

    def given(self, images: Sequence[Tensor]) -> Tensor:
        """What the file is given for images ``[C, H_i, W_i]`` in 0..1: one batch of its size, perhaps of bytes."""
        batch = torch.stack([self._padded(image.detach().float().cpu()) for image in images])
        return _bytes(batch) if self.file.dtype == torch.uint8 else batch

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """``boxes``, ``labels`` and ``scores`` of each image ``[C, H_i, W_i]`` in 0..1."""
        found = self.file(self.given(images))
        detections = []
        for number, image in enumerate(images):
            count = int(found["count"][number])
            one = {name: found[name][number, :count].to(image.device) for name in ("boxes", "labels", "scores")}
            labels = one["labels"]
            if count < 0 or (len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= self.num_classes):
                raise ValueError(f"{self.file.path}: gives labels outside 1..{self.num_classes}; export it again")
            boxes = clip_boxes_to_image(one["boxes"], (image.shape[-2], image.shape[-1]))
            inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
            detections.append({**{name: value[inside] for name, value in one.items()}, "boxes": boxes[inside]})
        return detections

    def _padded(self, image: Tensor) -> Tensor:
        height, width = (size or 0 for size in self.file.shape[2:])
        down, right = height - image.shape[-2], width - image.shape[-1]
        if (down or right) and (not self.pads or down < 0 or right < 0):
            most, smaller = "", ""  # a detector that resizes would scale what is padded differently
            if self.pads:
                most, smaller = "at most ", f"give --data.image_size {min(height, width)} (the longer side), or "
            raise ValueError(
                f"{self.file.path}: takes images of {most}{height}x{width} pixels (height x width), got "
                f"{image.shape[-2]}x{image.shape[-1]}: {smaller}export it with another --image-size"
            )
        padded = self.fill.expand(len(image), height, width).clone()
        padded[:, : image.shape[-2], : image.shape[-1]] = image
        return padded


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _parsed(said: Mapping[str, str], name: str, path: Path) -> Any:
    text = said.get(name)
    return parse_yaml(text, f"{path}: {name} of its metadata") if text else {} if name in ("model", "data") else None


def _statistic(said: Mapping[str, str], name: str, file: OnnxModel) -> Tensor | None:
    value = _parsed(said, name, file.path)
    if value is None:
        return None
    limits: dict[str, Any] = {"above": 0} if name == "std" else {}
    check_numbers(f"{file.path}: {name}", value, length=file.shape[1], maximum=10, **limits)
    return torch.tensor(value, dtype=torch.float32)[:, None, None]
