"""Files that are written whole or not at all.

What is written over an earlier file (a checkpoint, results, a picture) goes into a file beside it first, is flushed to
the disk, and then takes its name. Whatever happens before that, the earlier file stays as it was.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dyvision.streams import is_stream, write_into

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: what "the disk is full" is called: no space, quota used up, file too large for the file system
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: str | os.PathLike[str], needed: int | None = None) -> Iterator[Path]:
    """Write a file under another name beside it and rename it at the end.

    A device or a pipe is written into and stays what it is; the file to write is a temporary one then.

    The folder is made if it does not exist. A remainder of a killed process (``.<name>.part<suffix>``) is overwritten.
    Where two processes write the same file at once, the one that ends last has written it.

    Args:
        path: The file to write; a link is followed, and stays one. An existing file keeps its owner and its rights.
        needed: Bytes that will be written, if known; then nothing is started on a disk without that room.

    Yields:
        Where to write: a file of the same suffix in the same folder.

    Raises:
        OSError: If it cannot be written, naming the file and, on a full disk, the room that is missing.
    """
    if is_stream(path):
        with TemporaryDirectory(prefix="dyvision-") as folder:
            part = Path(folder) / f"part{Path(path).suffix}"
            part.touch()
            yield part
            write_into(path, part)
        return
    target = Path(os.path.realpath(path))
    part = target.with_name(_part_name(target.stem, target.suffix))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if needed is not None and needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part, lock = _take(part)
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            _keep_access(target, part)
            os.replace(part, target)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno not in (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _FULL:
            free = shutil.disk_usage(target.parent).free
            reason += f" ({_megabytes(free)} free"
            reason += f", {_megabytes(needed)} needed)" if needed is not None else ")"
        kept = "; the file that was there before is unchanged" if target.exists() else ""
        raise type(error)(error.errno, f"{target} could not be written: {reason}{kept}") from error


def check_target(path: str | os.PathLike[str], option: str, *read: str | os.PathLike[str] | None) -> None:
    """Check before the work that its result can be written.

    Args:
        path: The file; folders above it are made when it is written, and a file of this name is replaced.
        option: Who asked for it, for the message.
        *read: Files that the result is made from, which it must not replace; None is none.

    Raises:
        OSError: If it is a folder, or nothing can be written there.
        ValueError: If it is one of the files that are read.
    """
    target = Path(path).expanduser().absolute()
    if target.is_dir():
        raise IsADirectoryError(f"{option} {path}: a folder; give a file in it")
    for source in (Path(one).expanduser() for one in read if one is not None):
        if target.is_file() and source.is_file() and target.samefile(source):
            raise ValueError(f"{option} {path}: the file that is read, which would be lost; give another one")
    _check_writable(target.parent, f"{option} {path}", ", not a folder")


def check_folder(path: str | os.PathLike[str], option: str) -> None:
    """Check before the work that its results can be written into a folder, which need not exist yet.

    Args:
        path: The folder.
        option: Who asked for it, for the message.

    Raises:
        OSError: If it, or what should be a folder above it, is a file, or nothing can be written there.
    """
    _check_writable(Path(path).expanduser().absolute(), f"{option} {path}", "; give a folder")


def _check_writable(folder: Path, asked: str, hint: str) -> None:
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{asked}: {above} is a file{hint}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{asked}: no permission to write in {above}; give another folder")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as UTF-8, whole or not at all.

    Raises:
        OSError: As for :func:`replacing`.
    """
    content = text.encode("utf-8")
    with replacing(path, needed=len(content)) as part:
        part.write_bytes(content)


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file as :func:`replacing` does.

    Args:
        path: The file.
        tensors: Contiguous, each with memory of its own.
        metadata: More of the file's metadata.

    Raises:
        OSError: If it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path, needed=sum(tensor.nbytes for tensor in tensors.values())) as part:
        try:
            save_file(dict(tensors), part, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:  # of the library's own kind, also where the system refused
            refused = re.search(r"os error (\d+)", str(error))
            if refused is None:
                raise
            raise OSError(int(refused[1]), os.strerror(int(refused[1]))) from error


def _take(part: Path) -> tuple[Path, int | None]:
    """Make and lock the file to write to, under another name if somebody is writing to this one."""
    if fcntl is None:
        return part, None  # and an open file cannot be renamed there
    own = part
    while True:
        handle = os.open(own, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # it may have taken its final name since it was opened
            if os.path.samestat(os.fstat(handle), os.stat(own)):
                return own, handle
        except BlockingIOError:
            own = part.with_name(_part_name(uuid.uuid4().hex, part.suffix))
        except FileNotFoundError:
            pass
        except OSError:  # a file system without locks
            return own, handle
        os.close(handle)


def _part_name(stem: str, suffix: str) -> str:
    # file systems allow 255 bytes: of a longer name the end is told by a hash
    name = f".{stem}.part{suffix}"
    if len(os.fsencode(name)) <= 255:
        return name
    return f".{hashlib.sha256(os.fsencode(stem)).hexdigest()}.part{suffix}"


def _sync_folder(folder: Path) -> None:
    # the new name is on the disk only when the folder is; some file systems cannot do this for a folder
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _keep_access(target: Path, part: Path) -> None:
    """A private file stays private, and root's run does not take a file from its owner."""
    with suppress(OSError):  # a new file, or a file system without rights
        before = target.stat()
        if hasattr(os, "chown") and before.st_uid != part.stat().st_uid:
            os.chown(part, before.st_uid, before.st_gid)
        part.chmod(stat.S_IMODE(before.st_mode))


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
