"""The task of a checkpoint that a command is about, and what its data module does to images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dyvision.cli._image_size import SIDE
from dyvision.cli.errors import naming
from dyvision.cli.request import read_checkpoint, read_request
from dyvision.data.opening import open_data
from dyvision.tasks.base import BaseTask
from dyvision.tasks.heads.detection.exportable import check_exportable
from dyvision.tasks.opening import open_task, task_class
from dyvision.text import first_line

#: which size of a detector's file
_ITS_SIZE = "the size of your images (larger ones are refused, smaller ones padded, which costs accuracy)"


@dataclass(frozen=True)
class Source:
    """A checkpoint.

    Attributes:
        path: The file.
        task: With its weights, in evaluation mode.
        data: Its data module; None if that is none of dyvision's.
        trust: Names that its hyperparameters may use.
    """

    path: Path
    task: Any
    data: Any
    trust: Sequence[str]

    @property
    def statistics(self) -> tuple[Sequence[float] | None, Sequence[float] | None]:
        """Mean and standard deviation that images are normalised with; None if unknown."""
        found = None if self.data is None else self.data.statistics()
        return (None, None) if found is None else found

    def own_size(self) -> tuple[tuple[int, int], str] | None:
        """Height and width of the images that its network sees, and what says so; None if nothing does."""
        hparams = {} if self.data is None else self.data.hparams
        inference = self.task.hparams.get("inference") or {}
        if inference.get("mode") == "slide":
            return _pair(inference["crop_size"]), "the windows of inference"
        evaluated = None if self.data is None else self.data.evaluation_size()
        if evaluated is not None:
            return _pair(evaluated), "as in evaluation"
        if hparams.get("crop_size") is not None:
            return _pair(hparams["crop_size"]), "the crops of the training"
        detects = self.task.task == "detection"
        if detects and self.task.hparams.get("min_size") is None and hparams.get("image_size") is not None:
            side = int(hparams["image_size"])
            return (side, side), "data.image_size; smaller ones are padded"
        return None

    def export_size(self, given: tuple[int, int] | Literal["dynamic"] | None) -> tuple[tuple[int, int], str]:
        """Height and width of the images of an exported file (of the example, where they are to be free), and why.

        Raises:
            ValueError: If nothing says, or the network cannot be exported for any.
        """
        detects = self.task.task == "detection"
        if detects:  # before its user looks for a size
            with naming(self.path):
                check_exportable(self.task.built_network)
            if given == "dynamic":
                raise ValueError(
                    f"{self.path}: --image-size dynamic: anchors are those of one size; "
                    f"give --image-size HxW, {_ITS_SIZE}"
                )
        if given is not None and given != "dynamic":
            return given, "--image-size"
        found = self.own_size()
        if found is None:
            hint = f"HxW, {_ITS_SIZE}" if detects else "HxW or dynamic"
            raise ValueError(
                f"{self.path}: images keep their own sizes in evaluation, so nothing says which size the file is "
                f"for: give --image-size {hint}"
            )
        size, origin = found
        return size, f"{origin}; --image-size HxW for others" if "crops" in origin else origin


def find_checkpoint(checkpoint: str, command: str) -> Path:
    """The file of a checkpoint.

    Args:
        checkpoint: A file, ``last`` or ``best``.
        command: What it is for.

    Raises:
        FileNotFoundError: If there is no run whose last or best checkpoint could be meant.
    """
    if checkpoint in ("last", "best"):
        return read_request([f"--ckpt_path={checkpoint}"], command).checkpoint_path or Path(checkpoint)
    return Path(checkpoint).expanduser()


def read_source(path: Path, trust: Sequence[str], root: str | None = None, otherwise: str = "") -> Source:
    """Read a checkpoint, and what its hyperparameters say about its data.

    Args:
        path: The file.
        trust: Names that it may use.
        root: Where its data set is now.
        otherwise: What there is for networks of other tasks, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of a task of dyvision.
    """
    content = _content(path, otherwise)
    task = open_task(path, trust)
    return Source(path, task.eval(), _data_of(task, content, path, trust, root), trust)


def read_sized(path: Path, trust: Sequence[str], given: tuple[int, int] | None) -> tuple[Any, tuple[int, int], str]:
    """The task of a checkpoint, and height and width of the images to count its costs for.

    Args:
        path: The file.
        trust: Names that it may use.
        given: What the user typed.

    Returns:
        The task, the size, and what says it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of a task of dyvision.
    """
    content = _content(path)
    task = open_task(path, trust)
    if given is not None:
        return task, given, "--input-size"
    reason = "nothing in the checkpoint says another"
    try:
        found = Source(path, task, _data_of(task, content, path, trust), trust).own_size()
    except ValueError as error:  # the network can be counted without its data
        found, reason = None, first_line(error)
    size, origin = found or ((SIDE, SIDE), f"{reason}; --input-size for others")
    return task, size, origin


def _content(path: Path, otherwise: str = "") -> dict[str, Any]:
    content = read_checkpoint(path, option="")
    try:
        task_class(content["task"], str(path))
    except ValueError as error:
        raise ValueError(f"{error}{otherwise}") from error
    return content


def _data_of(
    task: BaseTask, content: Mapping[str, Any], path: Path, trust: Sequence[str], root: str | None = None
) -> Any:
    """The data module of a checkpoint; None if that is none of dyvision's."""
    if content["data"].get("root") is None:
        return None
    described = {"datamodule_hyper_parameters": content["data"], "plugins": content["plugins"]}
    moved = {} if root is None else {"root": root}
    data = open_data(task.task, described, str(path), trust, **moved)
    data.take_channels(task.hparams.in_chans)
    return data


def _pair(size: Sequence[int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])
