"""Output into what is no file: a device, a pipe, a descriptor of the shell. It is written into, never replaced."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from pathlib import Path

#: names of open files, of which the kernel's links lead to nowhere (a pipe) or to a file that others are writing to
_DESCRIPTORS = ("/dev/fd/", "/dev/std", "/proc/")
#: seconds that a named pipe may have no reader: a shell starts both ends at about the same time
_PATIENCE = 10.0


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether a path, links followed, is something that exists and is neither a regular file nor a folder.

    Raises:
        OSError: If links lead in a circle.
    """
    if os.path.abspath(path).startswith(_DESCRIPTORS):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, f"{path} could not be written: its links lead in a circle") from error
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def write_into(path: str | os.PathLike[str], source: Path) -> None:
    """Write what a file holds into a device or a pipe, as the shell's ``>`` does.

    Raises:
        OSError: If nothing can be written there, or nobody reads from the pipe.
    """
    try:
        with os.fdopen(_open(path), "wb") as target, source.open("rb") as content:
            shutil.copyfileobj(content, target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise type(error)(error.errno, f"{path} could not be written: {_reason(error)}") from error


def _open(path: str | os.PathLike[str]) -> int:
    if not Path(path).is_fifo():
        # of a regular file behind /dev/stdout what is there stays
        return os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOCTTY", 0))
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            os.set_blocking(handle, True)
            return handle


def _reason(error: OSError) -> str:
    if error.errno == errno.ENXIO:
        return "nobody reads from this pipe or socket; start the reader first, or give a file"
    return os.strerror(error.errno) if error.errno else str(error)
