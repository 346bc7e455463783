"""Which paths are one file: links to files and folders, hard links."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_DEVICE = 0x9E3779B97F4A7C15  # any odd number of 64 bits
_WRAP = 2**64 - 1


def file_codes(paths: Iterable[str]) -> NDArray[np.uint64]:
    """A number of the file behind each path: equal for two paths exactly if they are one file.

    Folders are listed once, which says of every file but a link what it is; on a million images that is several times
    faster than a question per file, and much more so on a network drive.

    Args:
        paths: Files; of one that is not there, the path counts.

    Returns:
        uint64 ``[N]``.
    """
    folders: dict[str, dict[str, int]] = {}
    codes = array("Q")
    here, files = None, {}
    for path in paths:
        folder, _, name = path.rpartition(os.sep)
        if folder != here:  # mostly they come folder by folder
            here = folder
            if folder not in folders:
                folders[folder] = _listing(folder + os.sep if folder or path[:1] == os.sep else ".")
            files = folders[folder]
        code = files.get(name)
        codes.append(_asked(path) if code is None else code)
    return np.frombuffer(codes, dtype=np.uint64) if codes else np.zeros(0, np.uint64)


def shared_images(train: Iterable[str], val: Sequence[str]) -> list[str]:
    """Images of the second list that are in the first, whatever links lead there."""
    shared = np.isin(file_codes(val), file_codes(train))
    return [val[position] for position in np.flatnonzero(shared).tolist()]


def several_labels(paths: Sequence[str], labels: Sequence[int]) -> list[tuple[int, int]]:
    """Positions of files that are there twice with different labels: an earlier one, a later one."""
    codes, values = file_codes(paths), np.asarray(labels)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    earlier = first[inverse]
    return [(int(earlier[later]), int(later)) for later in np.flatnonzero(values[earlier] != values)]


def _listing(folder: str) -> dict[str, int]:
    """Codes of the files in a folder, except links."""
    try:
        with os.scandir(folder) as entries:
            plain = [(entry.name, entry.inode()) for entry in entries if not entry.is_symlink()]
        # some file systems of several layers number files otherwise in a list of the folder
        status = next((os.stat(os.path.join(folder, name)), inode) for name, inode in plain) if plain else None
    except OSError:
        return {}
    if status is None or status[0].st_ino != status[1]:
        return {}
    offset = _code(status[0].st_dev, 0)
    return {name: (offset + inode) & _WRAP for name, inode in plain}


def _asked(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return hash(path) & _WRAP
    return _code(status.st_dev, status.st_ino)


def _code(device: int, inode: int) -> int:
    return (device * _DEVICE + inode) & _WRAP
