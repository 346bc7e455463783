"""What ``dyvision export`` reads: the task of a checkpoint, and what its data module does to images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dyvision.cli.request import read_checkpoint, read_request
from dyvision.data.opening import open_data
from dyvision.tasks.heads.detection.exportable import check_exportable
from dyvision.tasks.opening import open_task, task_class


@dataclass(frozen=True)
class Source:
    """A checkpoint to be exported.

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

    @property
    def data_options(self) -> dict[str, Any]:
        """Hyperparameters of the data module."""
        return {} if self.data is None else dict(self.data.hparams)

    def image_size(self, given: tuple[int, int] | Literal["dynamic"] | None) -> tuple[tuple[int, int], str]:
        """Height and width of the images (of the example, where they are to be free), and where they come from.

        Raises:
            ValueError: If nothing says, or the network cannot be exported for any.
        """
        detects = self.task.task == "detection"
        if detects:  # before its user looks for a size
            check_exportable(self.task.built_network)
        if given is not None and given != "dynamic":
            return given, "--image-size"
        hparams = {} if self.data is None else self.data.hparams
        inference = self.task.hparams.get("inference") or {}
        if inference.get("mode") == "slide":
            return _pair(inference["crop_size"]), "the windows of inference"
        evaluated = None if self.data is None else self.data.evaluation_size()
        if evaluated is not None:
            return _pair(evaluated), "as in evaluation"
        if hparams.get("crop_size") is not None:
            return _pair(hparams["crop_size"]), "the crops of the training; --image-size HxW for others"
        if detects and self.task.hparams.get("min_size") is None and hparams.get("image_size") is not None:
            side = int(hparams["image_size"])
            return (side, side), "data.image_size; smaller ones are padded"
        hint = "HxW, large enough for all of them" if detects else "HxW or dynamic"
        raise ValueError(
            f"{self.path}: images keep their own sizes in evaluation, so nothing says which size the file is "
            f"for: give --image-size {hint}"
        )


def read_source(checkpoint: str, trust: Sequence[str], root: str | None = None) -> Source:
    """Read a checkpoint, and what its hyperparameters say about its data.

    Args:
        checkpoint: A file, ``last`` or ``best``.
        trust: Names that it may use.
        root: Where its data set is now.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of a task of dyvision.
    """
    path = Path(checkpoint)
    if checkpoint in ("last", "best"):
        path = read_request([f"--ckpt_path={checkpoint}"], "export").checkpoint_path or path
    content = read_checkpoint(path, option="")
    try:
        task_class(content["task"], str(path))
    except ValueError as error:
        raise ValueError(f"{error}; in Python dyvision.export.export_onnx takes any network") from error
    task = open_task(path, trust)
    data, moved = None, {} if root is None else {"root": root}
    if content["data"].get("root") is not None:
        described = {"datamodule_hyper_parameters": content["data"], "plugins": content["plugins"]}
        data = open_data(task.task, described, str(path), trust, **moved)
        data.take_channels(task.hparams.in_chans)
    return Source(path, task.eval(), data, trust)


def _pair(size: Sequence[int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])
