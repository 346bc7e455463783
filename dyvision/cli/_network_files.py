"""A network that a command is about: by its name, as a checkpoint of a task, or as weights of a named network."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from dyvision.cli._image_size import size_to_count
from dyvision.cli.task_table import TASKS
from dyvision.file_kinds import PROGRAMS, is_file_name, missing, program_in
from dyvision.text import printable


class Opened(NamedTuple):
    """A network.

    Attributes:
        network: The module.
        described: What it is, in words.
        image_size: Height and width to count its costs for.
        origin: What says so.
    """

    network: nn.Module
    described: str
    image_size: tuple[int, int]
    origin: str


def open_network(model: str, network: str | None, image_size: tuple[int, int] | None = None) -> Opened:
    """The network that a command line names.

    Args:
        model: Name of a network, or a file: a checkpoint of a task, whose backbone is meant, or weights; ``last`` or
            ``best`` of the newest run.
        network: Whose weights they are, if the file does not say it.
        image_size: As typed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read safely, holds no weights or a fixed program, or is of another network.
    """
    from dyvision.backbones import create_model

    if model in ("last", "best"):
        from dyvision.cli._source import find_checkpoint

        model = str(find_checkpoint(model, "dynamize"))
    size, origin = size_to_count(image_size)
    if not is_file_name(model):
        if network is not None:
            raise ValueError(
                f"--network says whose weights a file has, and {model!r} is no file: give only one of them"
            )
        return Opened(create_model(model), model, size, origin)
    path = Path(model).expanduser()
    if not path.exists():
        raise FileNotFoundError(missing(path))
    program = PROGRAMS.get(path.suffix.lower()) or _program(path)
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
        return _backbone(path, image_size)
    return Opened(*_with_weights(path, content, network), size, origin)


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


def _backbone(path: Path, image_size: tuple[int, int] | None) -> Opened:
    """The backbone of a checkpoint of a task."""
    from dyvision.cli._source import read_sized

    made, size, origin = read_sized(path, (), image_size)
    return Opened(made.backbone_network, f"{path}, backbone {printable(str(made.hparams.backbone))}", size, origin)


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
