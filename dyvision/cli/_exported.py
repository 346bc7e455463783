"""``--model FILE``: an exported file in the place of a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyvision.cli.typed import TypedOptions
from dyvision.file_kinds import is_file_name, missing

if TYPE_CHECKING:
    from dyvision.tasks.exporting import ExportedTask

_ONNX = "an ONNX file of dyvision export (.onnx)"
#: ends of what dyvision export writes for other programs
_OTHERS = (".pt2", ".ep", ".xml")


def take_exported(options: TypedOptions) -> Path | None:
    """Take ``--model FILE``, an exported file, from a command line; a class path stays.

    Raises:
        FileNotFoundError: If it is another file, and there is none.
        ValueError: If it is another file.
    """
    value = options.get("model")
    if value is None or not (is_file_name(value) or Path(value).exists()):
        return None
    path = Path(value).expanduser()
    if path.suffix.lower() == ".onnx":
        options.take("model")
        return path
    if not path.exists():
        raise FileNotFoundError(f"--model {missing(path)}; expected {_ONNX}")
    if path.is_dir():
        raise ValueError(f"--model={value}: a folder; expected {_ONNX}")
    if path.suffix.lower() in _OTHERS:
        raise ValueError(
            f"--model={value}: expected {_ONNX}; a file of another format is run by the program that it is for, and "
            "the checkpoint that it was made from is given as --ckpt_path=FILE"
        )
    raise ValueError(f"--model={value}: expected {_ONNX}; a checkpoint is given as --ckpt_path={value}")


def read_exported(path: Path, command: str) -> ExportedTask:
    """Read an exported file.

    Args:
        path: The file.
        command: What is to be done with it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no exported task, or something else is asked of it than to be run.
    """
    if command not in ("validate", "test", "predict"):
        raise ValueError(f"--model {path}: an exported file is not trained; give the checkpoint as --ckpt_path FILE")
    from dyvision.tasks.exporting import ExportedTask

    try:
        return ExportedTask.read(path)
    except (ValueError, OSError) as error:
        raise type(error)(f"--model {error}") from error


def as_checkpoint(exported: ExportedTask, photos: bool) -> dict[str, Any]:
    """What an exported file says, as a checkpoint does.

    Args:
        exported: The file.
        photos: Whether it is to predict given images, for which no data set is needed.
    """
    content = exported.as_checkpoint()
    if photos:
        content["data"] = {"root": os.devnull, **content["data"]}
    return content
