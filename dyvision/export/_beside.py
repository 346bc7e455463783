"""Parameters in a file of their own beside an ONNX file, ``x.onnx.data``, and whose they are."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dyvision.export._packages import need
from dyvision.saving import replacing


def beside(path: Path) -> Path:
    """Where an ONNX file has its parameters if they are too large for it: where a link leads."""
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}.data")


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


def who_shares(path: Path) -> Path | None:
    """Another ONNX file of the folder, a copy perhaps, that names the parameters beside this one."""
    name = os.fsencode(beside(path).name)
    length = bytes([len(name)]) if len(name) < 128 else bytes([len(name) & 127 | 128, len(name) >> 7])
    # a text of protobuf behind its length, or the end of a path, wherever in the file tensors are
    named = re.compile(rb"(?:\x12" + re.escape(length) + rb"|[/\\])" + re.escape(name))
    for other in sorted(beside(path).parent.glob("*.onnx*")):
        if other.suffix == ".data" or other.resolve() == path.resolve() or not other.is_file():
            continue
        with other.open("rb") as file:
            if other.stat().st_size and named.search(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)):
                return other
    return None


def check_beside(path: Path) -> None:
    """Check that the parameters beside a file may be replaced.

    Raises:
        FileExistsError: If they are not those of an earlier file of this name, or not of that alone.
    """
    if not beside(path).exists():
        return
    whose = "is not that of an earlier network"
    if keeps_beside(path):
        other = who_shares(path)
        if other is None:
            return
        whose = f"has those of {other.name} as well"
    raise FileExistsError(
        f"{path}: its parameters go into {beside(path).name}, which is there already and {whose}; move it, or give "
        "another name"
    )


@contextmanager
def replacing_whole(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Write an ONNX file that holds its parameters itself, as :func:`dyvision.saving.replacing` does.

    What an earlier file of this name kept beside it goes with that file; a file that it did not name, or that another
    ONNX file of the folder names as well, stays.
    """
    stale = keeps_beside(path) and who_shares(path) is None
    with replacing(path, needed) as part:
        yield part
    if stale:
        beside(path).unlink(missing_ok=True)
