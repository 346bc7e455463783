"""A task as a file: its network in the wanted format, and in the file's metadata all that is needed to run the task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import yaml
from lightning.pytorch import LightningDataModule
from torch import nn

from dyvision.export import ExportedFile, export_onnx, export_openvino, export_program
from dyvision.layers import DynamicConv2d
from dyvision.ops.geometry import pair
from dyvision.registry import record_plugins
from dyvision.tasks.arguments import plain_value
from dyvision.tasks.base import BaseTask
from dyvision.tasks.collapsing import static_task
from dyvision.tasks.exporting.network import DETECTIONS, Exportable, Wanted, make_exportable
from dyvision.tasks.preprocessing import statistic_of
from dyvision.text import some
from dyvision.trust import without_folders, without_places

#: name -> what writes it, and how its files end
FORMATS: dict[str, tuple[Callable[..., ExportedFile], str]] = {
    "onnx": (export_onnx, ".onnx"),
    "torch": (export_program, ".pt2"),
    "openvino": (export_openvino, ".xml"),
}


def export_task(
    task: BaseTask,
    path: str | PathLike[str],
    *,
    image_size: int | Sequence[int],
    format: str = "onnx",
    batch: int | Literal["dynamic"] = "dynamic",
    dynamic_size: bool = False,
    preprocess: bool = False,
    postprocess: bool = False,
    fuse: bool = True,
    check: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data: Mapping[str, Any] | LightningDataModule | None = None,
) -> ExportedFile:
    """Write a task's network as a file and compare what it computes with PyTorch's outputs.

    An ONNX file can be evaluated and predict like the checkpoint: :func:`~dyvision.tasks.exporting.load_exported`.

    Args:
        task: Of ``load_from_checkpoint``, or with a network.
        path: The file; an earlier one stays if anything fails.
        image_size: Height and width of the images, or an int for squares; with ``dynamic_size`` of the example.
        format: ``"onnx"``, ``"torch"`` (a program of ``torch.export``) or ``"openvino"``.
        batch: ``"dynamic"``, or the number of images that it takes.
        dynamic_size: Whether it takes images of other heights and widths, too; not for detection.
        preprocess: Whether it takes bytes ``[B, C, H, W]`` instead of normalised images (of detection: of 0 to 1).
        postprocess: Whether it gives ``probabilities`` or a ``label_map`` instead of ``logits``; detection always gives
            ``boxes``, ``scores``, ``labels`` and ``count`` after non-maximum suppression.
        fuse: Fold BatchNorms and branches first.
        check: Compare.
        mean: What the data module normalises with; needed for ``preprocess`` but of detection. None takes that of
            ``data``.
        std: The same.
        data: The data module or its hyperparameters, with which a file alone is enough to predict; a format that a
            plug-in registered needs the data module. Where the data set lies is left out. None takes what the
            checkpoint of the task says of its images.

    Raises:
        ValueError: If an argument is out of range, a package is missing, the task or its head cannot be exported,
            ``mean`` or ``std`` is another one than in ``data``, or the outputs differ; there is no new file then.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: expected {some(FORMATS)}")
    data = task.trained_with if data is None else data
    mean, std = (_statistic(*one, _options(data), task) for one in (("mean", mean), ("std", std)))
    made = exportable(task, image_size, preprocess, postprocess, fuse, mean, std)
    if dynamic_size and made.postprocess == DETECTIONS:
        raise ValueError("image size dynamic: anchors are those of one size; export detection with --image-size HxW")
    write, _ = FORMATS[format]
    return write(
        made.network,
        path,
        image_size=image_size,
        batch=batch,
        dynamic_size=dynamic_size,
        fuse=False,  # only what is the task's network is folded, above
        check=check,
        channels=task.hparams.in_chans,
        images=made.images,
        metadata=describe(task, made, preprocess, data),
    )


def exportable(
    task: BaseTask,
    image_size: int | Sequence[int],
    preprocess: bool = False,
    postprocess: bool = False,
    fuse: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Exportable:
    """The network of a file; arguments as for :func:`export_task`."""
    return make_exportable(task, Wanted(pair("image_size", image_size, 1), mean, std, preprocess, postprocess, fuse))


def describe(
    task: BaseTask, made: Exportable, preprocess: bool, data: Mapping[str, Any] | LightningDataModule
) -> dict[str, Any]:
    """What the file says about its task. Hyperparameters are YAML, which has other keys than text, too."""
    options = without_folders(_options(data))
    said = {
        "task": task.task,
        "backbone": task.hparams.backbone,
        "num_classes": task.hparams.num_classes,
        "classes": task.hparams.class_names or [],
        "mean": None if made.mean is None else list(made.mean),
        "std": None if made.std is None else list(made.std),
        "preprocess": "bytes" if preprocess else "none",
        "postprocess": made.postprocess,
        "model": _text(without_places(task.hparams)),
        "data": _text(options),
    }
    plugins = record_plugins({**task.hparams, **options}, data if isinstance(data, LightningDataModule) else None)
    if plugins:  # of an imported file its name: where it lay is no business of who gets this one
        said["plugins"] = [{how: os.path.basename(text) for how, text in one.items()} for one in plugins]
    if task.data_names is not None:
        said["data_class_names"] = list(task.data_names)
    return said


def static_twin(task: BaseTask) -> BaseTask | None:
    """The same task with static layers and random weights, to compare times with; None if there is none."""
    if not is_dynamic(task):
        return None
    try:
        twin = static_task(task).eval()
    except (ValueError, TypeError):  # a network that exists with its own layers only
        return None
    return None if is_dynamic(twin) else twin


def is_dynamic(network: nn.Module) -> bool:
    """Whether it has dynamic layers."""
    return any(isinstance(module, DynamicConv2d) for module in network.modules())


def _options(data: Mapping[str, Any] | LightningDataModule) -> dict[str, Any]:
    """Hyperparameters of a data module."""
    return dict(data.hparams if isinstance(data, LightningDataModule) else data)


def _statistic(
    name: str, given: Sequence[float] | None, data: Mapping[str, Any], task: BaseTask
) -> Sequence[float] | None:
    """What was given, else what the data module's arguments say.

    Raises:
        ValueError: If these are two numbers.
    """
    said = statistic_of(data, name, task.hparams.in_chans)
    if given is not None and said is not None and not np.allclose(given, said, atol=1e-4):
        raise ValueError(f"{name}={list(given)}: the data has {name}={said}; give one of them")
    return said if given is None else given


def _text(values: Mapping[str, Any]) -> str:
    plain = {name: plain_value(value, name) for name, value in values.items()}
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**20).strip()
