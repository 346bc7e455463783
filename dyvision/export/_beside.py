"""Parameters in a file of their own beside an ONNX file, ``x.onnx.data``, and whose they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dyvision.export._packages import need
from dyvision.saving import replacing


def beside(path: Path) -> Path:
    """Where an ONNX file has its parameters if they are too large for it."""
    return path.with_name(f"{path.name}.data")


def keeps_beside(path: Path) -> bool:
    """Whether there is an ONNX file that names the parameters beside it; what is no ONNX file names none."""
    if not (path.is_file() and beside(path).is_file()):
        return False
    (onnx,) = need("onnx")
    try:
        initializers = onnx.load(path, load_external_data=False).graph.initializer
    except Exception:  # protobuf's error for bytes of another kind is not of its public interface
        return False
    named = (entry.value for tensor in initializers for entry in tensor.external_data if entry.key == "location")
    return any(Path(name) == Path(beside(path).name) for name in named)


@contextmanager
def replacing_whole(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Write an ONNX file that holds its parameters itself, as :func:`dyvision.saving.replacing` does.

    What an earlier file of this name kept beside it goes with that file; a file that it did not name stays.
    """
    real = Path(os.path.realpath(path))  # what is replaced, and what names lie beside, where a link leads
    stale = keeps_beside(real)
    with replacing(path, needed) as part:
        yield part
    if stale:
        beside(real).unlink(missing_ok=True)
