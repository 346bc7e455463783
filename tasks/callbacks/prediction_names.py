"""Names of prediction files: one per image, whatever the suffixes, the case and the form of the images' names."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

# file systems allow 255; what is written beside a file before it takes its name has a longer one
_LONGEST = 240


def output_name(path: str | Path, roots: Sequence[Path]) -> Path:
    """Relative path of the PNG for an input image.

    A link counts by its own name and place, not by those of what it leads to.

    Args:
        path: The image.
        roots: Folders (or images) of which the first that contains it is left out of the name; without one, the whole
            path below the drive is the name.

    Returns:
        The path below the root, with ``.png`` as its suffix. The old suffix stays where the folder has another image
        of that name, and a number follows where that is not enough (``A.jpg`` beside ``a.jpg``, which some file
        systems take for one). So different images get different names, whatever the order they come in and the
        process.
    """
    source = _absolute(path)
    for root in map(_absolute, roots):
        folder = root.parent if root == source else root
        for place, base in ((source.parent, folder), (_real(source.parent), _real(folder))):
            if place.is_relative_to(base):
                return _below(base, (*place.relative_to(base).parts, source.name))
    return source.relative_to(source.anchor).with_name(_name(source.parent, source.name))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))  # unlike resolve() this follows no links


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _below(base: Path, parts: Iterable[str]) -> Path:
    result = Path()
    for part in parts:
        result /= _name(base, part)
        base /= part
    return result


def _name(folder: Path, name: str) -> str:
    """The output name of an entry of a folder."""
    try:
        names = _names(str(folder), folder.stat().st_mtime_ns)
    except OSError:  # it vanished, or may not be listed
        names = {}
    if name in names:
        return names[name]
    taken = {_key(other) for other in names.values()}
    return _free((_short(name) if _is_image(name) or "." not in name else f"{name}.png", f"{name}.png"), taken)


@lru_cache(maxsize=64)
def _names(folder: str, changed: int) -> dict[str, str]:
    """Output names of all folders and images in a folder; worked out once, since folders hold thousands."""
    with os.scandir(folder) as listing:
        entries = sorted((entry.name, entry.is_dir()) for entry in listing)
    taken: set[str] = set()
    names = {name: _free((name,), taken) for name, is_folder in entries if is_folder}
    images = [name for name, is_folder in entries if not is_folder and _is_image(name)]
    shared = Counter(_key(_short(name)) for name in images)
    twins = [name for name in images if shared[_key(_short(name))] > 1]
    names |= {name: _free((f"{name}.png",), taken) for name in twins}
    return names | {name: _free((_short(name), f"{name}.png"), taken) for name in images if name not in names}


def _free(candidates: Sequence[str], taken: set[str]) -> str:
    """The first candidate that is not taken yet, or the last one with a number; takes it."""
    stem, suffix = os.path.splitext(candidates[-1])
    number = 1
    fitting = [_fit(name) for name in candidates]
    while not (free := [name for name in fitting if _key(name) not in taken]):
        number += 1
        fitting = [_fit(f"{stem}-{number}{suffix}")]
    taken.add(_key(free[0]))
    return free[0]


def _fit(name: str) -> str:
    """The name, or for one that is too long its beginning and a hash of all of it."""
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    stem, suffix = os.path.splitext(name)
    end = f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}{suffix}"
    while len(os.fsencode(stem + end)) > _LONGEST:
        stem = stem[:-1]
    return stem + end


def _short(name: str) -> str:
    return f"{os.path.splitext(name)[0]}.png"


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in Image.registered_extensions()


def _key(name: str) -> str:
    # what a file system that ignores case, or the Unicode form, takes for the same name
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
