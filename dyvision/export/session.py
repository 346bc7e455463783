"""Exported files run by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyvision.export._packages import need
from dyvision.file_kinds import is_torch_file, missing
from dyvision.text import first_line, printable

#: what ONNX Runtime calls the types of images
_TYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(uint8)": torch.uint8}
_TYPES["tensor(float16)"] = torch.float16


def open_session(path: Path, threads: int | None = None, name: str | None = None) -> Any:
    """A session of ONNX Runtime on the processor.

    Args:
        path: The file.
        threads: For ONNX Runtime.
        name: What errors call the file, if it is not there under its own name yet.

    Raises:
        ValueError: If the file cannot be run, or ONNX Runtime is not installed.
    """
    (runtime,) = need("onnxruntime")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    if threads is not None:
        settings.intra_op_num_threads = threads
    try:
        # parameters beside a file lie where a link leads
        return runtime.InferenceSession(os.path.realpath(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base class of their own
        raise ValueError(
            f"{name or path.name} cannot be run by ONNX Runtime: {printable(first_line(error))}"
        ) from error


def run(session: Any, images: Tensor) -> list[Tensor]:
    """All outputs for ``images [B, C, H, W]``."""
    return [torch.from_numpy(output) for output in session.run(None, {session.get_inputs()[0].name: images.numpy()})]


class OnnxModel:
    """An ONNX file with images as its input, in ONNX Runtime; batches of any size.

    Nothing of the file but its operators is run, whoever made it.

    Args:
        path: The file.
        threads: For ONNX Runtime; None for as many as it takes.

    Attributes:
        path: The file.
        shape: Of the images, ``[B, C, H, W]``; None for a size that is free.
        dtype: Type of the images.
        metadata: What the file says about itself.
        outputs: Names of the outputs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be run, or its input is not one batch of images.
    """

    def __init__(self, path: str | PathLike[str], threads: int | None = None) -> None:
        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise ValueError(f"{self.path}: a folder, not an ONNX file")
        if not self.path.exists():
            raise FileNotFoundError(missing(self.path))
        if not self.path.is_file():  # ONNX Runtime would wait for what a pipe never says
            raise ValueError(f"{self.path}: a pipe or a device, not an ONNX file")
        if is_torch_file(self.path):
            raise ValueError(
                f"{self.path}: a file of torch.save, not an ONNX file; if it is a checkpoint, give it a name that ends "
                "in .ckpt"
            )
        self._session = open_session(self.path, threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
            found = ", ".join(f"{one.type} {list(one.shape)}" for one in inputs)
            raise ValueError(f"{self.path}: takes {printable(found)}, expected one batch of images [B, C, H, W]")
        self.shape = tuple(size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape)
        self.dtype = _TYPES[inputs[0].type]
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Run a batch; one of another size than the file takes is split, and filled up with blank images.

        Args:
            images: ``[B, C, H, W]``.

        Returns:
            Outputs by name, of the given images.

        Raises:
            ValueError: If the file does not take images of such a size.
        """
        self._check(images.shape)
        images = images.detach().cpu().to(self.dtype).contiguous()
        count = self.shape[0] or max(1, len(images))
        parts = images.split(count) if len(images) else (images,)
        found = [self._run(part, count) for part in parts]
        return {name: torch.cat(values) for name, values in zip(self.outputs, zip(*found, strict=True), strict=True)}

    def _run(self, part: Tensor, count: int) -> list[Tensor]:
        missing = count - len(part)
        filled = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
        try:
            outputs = run(self._session, filled)
        except Exception as error:  # its errors have no base class of their own
            raise ValueError(f"{self.path}: ONNX Runtime failed: {printable(first_line(error))}") from error
        wrong = [name for name, one in zip(self.outputs, outputs, strict=True) if one.ndim < 1 or len(one) != count]
        if wrong:
            raise ValueError(f"{self.path}: {printable(wrong[0])} has no entry for each image of the batch")
        return [one[: len(part)] for one in outputs]

    def _check(self, shape: Sequence[int]) -> None:
        if len(shape) != 4:
            raise ValueError(f"{self.path}: takes a batch of images [B, C, H, W], got {list(shape)}")
        channels, height, width = self.shape[1:]
        if channels not in (None, shape[1]):
            raise ValueError(f"{self.path}: takes images of {channels} channels, got {shape[1]}")
        if height not in (None, shape[2]) or width not in (None, shape[3]):
            wanted, given = f"{height or 'any'} x {width or 'any'}", f"{shape[2]}x{shape[3]}"
            raise ValueError(
                f"{self.path}: takes images of {wanted} pixels (height x width), got {given}: give it images of "
                f"that size, or export it with --image-size {given} or dynamic"
            )
