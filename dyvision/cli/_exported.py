"""``--model FILE``: an exported file in the place of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dyvision.cli.typed import TypedOptions

if TYPE_CHECKING:
    from dyvision.tasks.exporting import ExportedTask


def take_exported(options: TypedOptions) -> Path | None:
    """Take ``--model FILE``, an exported file, from a command line; a class path stays.

    Raises:
        ValueError: If it is another file.
    """
    value = options.get("model")
    if value is None or not (value.endswith(".onnx") or Path(value).is_file()):
        return None
    if not value.endswith(".onnx"):
        raise ValueError(
            f"--model={value}: expected an ONNX file of dyvision export (.onnx); a checkpoint is given as "
            f"--ckpt_path={value}"
        )
    options.take("model")
    return Path(value)


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
