"""Exported files run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyvision.export._packages import need
from dyvision.text import first_line


def open_session(path: Path, threads: int | None = None) -> Any:
    """A session of ONNX Runtime on the processor.

    Raises:
        ValueError: If the file cannot be run, or ONNX Runtime is not installed.
    """
    (runtime,) = need("onnxruntime")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    if threads is not None:
        settings.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base class of their own
        raise ValueError(f"{path.name} cannot be run by ONNX Runtime: {first_line(error)}") from error


def run(session: Any, images: Tensor) -> list[Tensor]:
    """All outputs for ``images [B, C, H, W]``."""
    return [torch.from_numpy(output) for output in session.run(None, {session.get_inputs()[0].name: images.numpy()})]
