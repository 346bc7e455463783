"""A network that a command is about: by its name, as a checkpoint of a task, or as weights of a named network."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dyvision.cli.task_table import TASKS
from dyvision.file_kinds import program_in
from dyvision.text import printable

#: ends of names of files; names of networks have dots, too (resnet50.a1_in1k)
_WEIGHTS = frozenset({".ckpt", ".pth", ".pt", ".bin", ".safetensors", ".pkl", ".pickle"})
_PROGRAMS = {".onnx": "an ONNX file", ".pt2": "a program of torch.export", ".ep": "a program of torch.export"}


def open_network(model: str, network: str | None) -> tuple[nn.Module, str]:
    """The network, and what it is in words.

    Args:
        model: Name of a network, or a file: a checkpoint of a task, whose backbone is meant, or weights.
        network: Whose weights they are, if the file does not say it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read safely, holds no weights or a fixed program, or is of another network.
    """
    from dyvision.backbones import create_model

    path = Path(model).expanduser()
    if not (path.is_file() or path.suffix.lower() in (_WEIGHTS | _PROGRAMS.keys())):
        if network is not None:
            raise ValueError(
                f"--network says whose weights a file has, and {model!r} is no file: give only one of them"
            )
        return create_model(model), model
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    program = _PROGRAMS.get(path.suffix.lower()) or _program(path)
    if program:
        raise ValueError(
            f"{path}: {program}, whose operations are fixed: give the checkpoint it was exported from, or the name of "
            "its network"
        )
    content = _read(path)
    task = content.get("task") if isinstance(content, Mapping) else None
    if isinstance(content, Mapping) and "hyper_parameters" in content and task in TASKS:
        if network is not None:
            raise ValueError(f"{path}: a checkpoint, which names its network itself: leave --network out")
        return _backbone(path)
    return _with_weights(path, content, network)


def _read(path: Path) -> Any:
    """The content of a file as plain values; None for what is read by others."""
    from dyvision.checkpoint_file import load_plain
    from dyvision.file_kinds import check_file, is_safetensors

    check_file(path)
    return None if is_safetensors(path) else load_plain(path, mmap=True)


def _program(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return program_in(archive)


def _backbone(path: Path) -> tuple[nn.Module, str]:
    """The backbone of a checkpoint of a task."""
    from dyvision.tasks.opening import open_task

    made = open_task(path)
    return made.backbone_network, f"{path}, backbone {printable(str(made.hparams.backbone))}"


def _with_weights(path: Path, content: Any, network: str | None) -> tuple[nn.Module, str]:
    """A named network with the weights of a file."""
    from dyvision.backbones import create_model
    from dyvision.convert import inflate_checkpoint

    if network is None:
        others = "of another program, " if isinstance(content, Mapping) and "hyper_parameters" in content else ""
        raise ValueError(
            f"{path}: weights {others}without the name of their network: add --network NAME (dyvision list backbones, "
            "or any name of timm)"
        )
    model = create_model(network)
    try:
        inflate_checkpoint(model, path)
    except ValueError as error:
        raise ValueError(f"--network {network}: {error}") from error
    return model, f"{network} with the weights of {path}"
