"""What a pickled file may make: looked at before it is read, and walked through before anybody else does."""

from __future__ import annotations

import mmap
import pickletools
from collections import deque
from pathlib import Path
from typing import Any

from dyvision.reading import walk
from dyvision.text import first_line

#: what the structure may call besides tensors: containers and dtypes are torch's own list. A bytearray of any length
#: is three bytes of it
_BOMBS = ("builtins bytearray", "__builtin__ bytearray")
#: values of a whole checkpoint, those that occur several times counted each time; and levels. Real ones have some
#: 10,000, most of them states of random generators and counters of parameters
_MOST_VALUES = 2_000_000
_MOST_LEVELS = 100


def check_structure(path: Path, structure: bytes) -> None:
    """Check what a pickle calls, without running it.

    Args:
        path: The file, for messages.
        structure: The pickle.

    Raises:
        ValueError: If it would allocate memory of any size, or cannot be parsed.
    """
    try:
        called = {argument for code, argument, _ in pickletools.genops(structure) if code.name == "GLOBAL"}
    except Exception as error:  # whatever a made-up structure does to the parser
        raise ValueError(
            f"{path}: its structure cannot be read ({first_line(error)}); copy it again, or use an earlier checkpoint"
        ) from error
    if not called.isdisjoint(_BOMBS):
        _refuse(path)


def check_old_file(path: Path) -> None:
    """The same for a file of ``torch.save`` before zip files, in which pickles and tensors follow each other.

    Raises:
        ValueError: If it would allocate memory of any size.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # as the opcode GLOBAL has it; pickles are not compressed
        if any(content.find(name.replace(" ", "\n").encode() + b"\n") >= 0 for name in _BOMBS):
            _refuse(path)


def _refuse(path: Path) -> None:
    raise ValueError(f"{path}: holds a bytearray, which no checkpoint of dyvision does")


def check_extent(path: Path, content: Any) -> None:
    """Check that what was read can be walked through: a few bytes make a list of a list ... of a list, 60 times twice.

    Raises:
        ValueError: If it stands for too many values, or nests too deep (in itself, too).
    """
    try:
        deque(walk(content, str(path), _MOST_LEVELS, _MOST_VALUES), maxlen=0)
    except ValueError as error:
        raise ValueError(f"{error}; not a checkpoint") from None
