"""A task that is run by an exported file: its network calls ONNX Runtime, everything else is the task's."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyvision.arguments import check_numbers, shown
from dyvision.channels import of_channels
from dyvision.checkpoint_file import warn_of_newer
from dyvision.export import OnnxModel
from dyvision.reading import parse_yaml
from dyvision.tasks.arguments import plain_value
from dyvision.tasks.base import BaseTask
from dyvision.tasks.exporting.file_networks import OnnxDetector, OnnxNetwork
from dyvision.tasks.opening import task_class
from dyvision.tasks.preprocessing import undescribed
from dyvision.text import printable
from dyvision.trust import without_folders
from dyvision.version import VERSION

#: outputs of the files of each task, any of which will do
_OUTPUTS = {
    "classification": (["logits"], ["probabilities"]),
    "segmentation": (["logits"], ["label_map"]),
    "detection": (["boxes", "scores", "labels", "count"],),
}

#: hyperparameters of a task that are fixed in its file
_IN_THE_FILE = (
    *("backbone", "layer", "layer_kwargs", "policy", "head", "num_classes", "in_chans", "output_stride"),
    *("min_size", "max_size", "image_mean", "image_std", "fpn_channels", "anchor_scale"),
    *("score_threshold", "nms_threshold", "detections_per_image"),
)


@dataclass(frozen=True)
class ExportedTask:
    """An ONNX file of a task.

    Attributes:
        file: Runs it.
        task: Name of the task.
        model: Hyperparameters of the task, as the file has them: of any origin.
        data: Those of the data module, without places of another machine.
        mean: What the network's images are normalised with, as ``[C, 1, 1]``; None if unknown.
        std: The same.
        data_names: What the data calls the classes, where that is not what the task calls them.
        plugins: What it says of plug-ins that registered what it names.
    """

    file: OnnxModel
    task: str
    model: dict[str, Any]
    data: dict[str, Any]
    mean: Tensor | None
    std: Tensor | None
    data_names: list[str] | None = None
    plugins: Any = None

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
            found = f"its task is {shown(task)}" if task else "its metadata names no task"
            raise ValueError(
                f"{file.path}: not an exported task of dyvision ({found}); dyvision.export.OnnxModel runs any network"
            )
        if sorted(file.outputs) not in [sorted(names) for names in _OUTPUTS[task]]:
            raise ValueError(
                f"{file.path}: its outputs are {printable(', '.join(file.outputs))}, expected those of {task}: "
                f"{' or '.join(', '.join(names) for names in _OUTPUTS[task])}"
            )
        if task == "detection" and None in file.shape[2:]:
            raise ValueError(f"{file.path}: takes images of any size, and detection needs a fixed one; export it again")
        sections = {name: _parsed(said, name, file.path) or {} for name in ("model", "data")}
        for name, value in sections.items():
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise ValueError(
                    f"{file.path}: {name} of its metadata is no mapping of hyperparameters; export it again"
                )
        statistics = {name: _statistic(said, name, file, sections["data"]) for name in ("mean", "std")}
        warn_of_newer(said, str(file.path), VERSION)
        names = _parsed(said, "data_class_names", file.path)
        names = names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
        data = _with_size(without_folders(sections["data"]), task, sections["model"], file)
        plugins = _parsed(said, "plugins", file.path)
        return cls(file, task, dict(sections["model"]), data, **statistics, data_names=names, plugins=plugins)

    def check_described(self, known: Collection[str], given: Mapping[str, Any]) -> None:
        """Check that the file or its user says what images go through before the network sees them.

        Args:
            known: The arguments that the data module has.
            given: Those that the user gives.

        Raises:
            ValueError: If nobody says size, mean or standard deviation. For the crop there is a warning.
        """
        statistics = {name: value for name, value in (("mean", self.mean), ("std", self.std)) if value is not None}
        lacking = [name for name in undescribed(self.task, {**self.data, **statistics, **given}) if name in known]
        if not lacking:
            return
        needed = [name for name in lacking if name != "crop_ratio"]
        names = ", ".join(needed or lacking)
        said = f"{self.file.path}: does not say {names} of the images that it was trained with"
        if needed:
            options = ", ".join(f"--data.{name}" for name in needed)
            raise ValueError(f"{said}; give what it was ({options}; in Python data=, a data module)")
        warnings.warn(f"{said}: the default is taken", stacklevel=3)

    @property
    def size(self) -> int:
        """Bytes of the file and of the parameters beside it: more than it has parameters."""
        real = self.file.path.resolve()
        beside = real.with_name(f"{real.name}.data")
        return real.stat().st_size + (beside.stat().st_size if beside.exists() else 0)

    def as_checkpoint(self) -> dict[str, Any]:
        """What the command line wants to know of a checkpoint."""
        return {
            "path": self.file.path,
            "weights": self.size,
            "task": self.task,
            "model": self.model,
            "data": self.data,
            "plugins": self.plugins,
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
        self._check_network(task)
        if self.task == "detection":
            pads = task.hparams.get("min_size") is None
            task.network = OnnxDetector(
                self.file, num_classes, pads, torch.zeros(1) if self.mean is None else self.mean
            )
        elif self.file.dtype == torch.uint8 and (self.mean is None or self.std is None):
            raise ValueError(f"{path}: takes bytes, and its metadata lacks mean and std; export it again")
        else:
            axes = 2 if self.task == "classification" else 4
            task.network = OnnxNetwork(self.file, num_classes, self.mean, self.std, axes)
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
        statistics = {"mean": self.mean, "std": self.std} if self.task != "detection" else {}
        required = {name: one.flatten().tolist() for name, one in statistics.items() if one is not None}
        task.run_on(path, self.data, required)

    def _check_network(self, task: BaseTask) -> None:
        """Whether a task that was built with the user's options describes the network that is in the file."""
        for name in _IN_THE_FILE:
            given, made = (plain_value(options.get(name), name) for options in (task.hparams, self.model))
            if name in self.model and given != made:
                raise ValueError(
                    f"{self.file.path}: was exported with {name}={shown(made)}, which cannot be {shown(given)} any "
                    f"more; leave --model.{name} out, or export the checkpoint with it"
                )


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
    task = kind.from_hyperparameters(exported.model, where, exported.size, trust, exported.plugins)
    exported.run(task)
    return task.eval()


def _parsed(said: Mapping[str, str], name: str, path: Path) -> Any:
    text = said.get(name)
    return parse_yaml(text, f"{path}: {name} of its metadata") if text else {} if name in ("model", "data") else None


def _with_size(data: dict[str, Any], task: str, model: Mapping[str, Any], file: OnnxModel) -> dict[str, Any]:
    """Arguments of a data module, with the size of the images where the file takes no other and they say none."""
    height, width = file.shape[2:]
    if "image_size" in data or None in (height, width) or model.get("inference"):
        return data
    size = {"segmentation": [height, width], "classification": height if height == width else None}.get(task)
    return data if size is None or data.get("eval_transform") else {**data, "image_size": size}


def _statistic(said: Mapping[str, str], name: str, file: OnnxModel, data: Mapping[str, Any]) -> Tensor | None:
    limits: dict[str, Any] = {"above": 0} if name == "std" else {}
    values = {name: _parsed(said, name, file.path), f"data.{name}": data.get(name)}
    found = []
    for where, value in values.items():
        if isinstance(value, list):
            value = list(of_channels(value, file.shape[1] or len(value)))
        if value is not None:
            check_numbers(f"{file.path}: {where}", value, length=file.shape[1], maximum=10, **limits)
        found.append(None if value is None else torch.tensor(value, dtype=torch.float32)[:, None, None])
    own, other = found
    if own is not None and other is not None and not torch.allclose(own, other, atol=1e-4):
        raise ValueError(
            f"{file.path}: its metadata has {name} {shown(values[name])} and among the options of the data "
            f"{shown(values[f'data.{name}'])}; export it again"
        )
    return own
