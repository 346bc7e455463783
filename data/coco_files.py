"""From the ``file_name`` of an annotation file to a file on disk."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

from dyvision.data.coco_fields import Fields, RefusedError, short
from dyvision.data.errors import DataError, did_you_mean
from dyvision.data.files import image_size, list_folders, list_images
from dyvision.text import some

_OTHER_SPELLING = "'file_name' is spelt otherwise than the file"


def find_files(names: Sequence[str], ids: Sequence[int], folder: Path, fields: Fields) -> list[str | None]:
    """Looks up the images of an annotation file.

    Links are followed, wherever they lead: whoever made the folder put them there. A name that leads out of the folder
    by itself is refused. Where there is no such file but exactly one whose name differs by slashes, case, Unicode's
    normal form, URL codes or repeated leading folders, that one is meant.

    Args:
        names: ``file_name`` of each image.
        ids: Their ids, for messages.
        folder: The image folder.
        fields: Reports.

    Returns:
        Path of each image; None where it was refused and refusals are collected.

    Raises:
        DataError: If the folder or an image is missing, or in a format that cannot be read, unless refusals are
            collected.
    """
    if not folder.is_dir():
        siblings = list_folders(folder.parent) if folder.parent.is_dir() else []
        raise DataError(f"there is no image folder {folder}.{did_you_mean(folder.name, siblings)}")
    present = set(list_images(folder))  # one walk is much faster than a question per image
    spellings: dict[str, list[str]] = {}
    prefix = os.path.join(folder, "")
    files: list[str | None] = []
    missing: list[str] = []
    unread: list[str] = []
    readable: set[str] = set()
    for name, image_id in zip(names, ids, strict=True):
        # a name that the walk found is below the folder
        if name in present:
            files.append(prefix + name)
            continue
        files.append(None)
        try:
            _check_inside(name, image_id, folder, fields)
        except RefusedError:
            continue
        if os.path.isfile(prefix + name):  # an extension that is not an image's, "./a.jpg"
            if _can_be_read(folder / name, readable):
                files[-1] = str(folder / name)
            else:
                unread.append(name)
            continue
        if not spellings:
            for known in present:
                spellings.setdefault(_canonical(known), []).append(known)
        found = _respelt(name, folder, spellings)
        if len(found) == 1:
            fields.findings.repaired(fields.path, _OTHER_SPELLING, "that file is read", f"{short(name)}: {found[0]}")
            files[-1] = prefix + found[0]
        elif found:
            fields.findings.refused_because(
                fields.path, "'file_name' fits several files", "write it as the file is spelt",
                f"image {image_id} with file_name {short(name)} ({some(found, 3)})",
            )  # fmt: skip
        else:
            missing.append(name)
    if missing:
        fix = "set the image folder, or remove them from the file"
        _refuse(missing, len(names), f"images are not in {folder}", fix, fields)
    if unread:
        fix = "convert them to JPEG or PNG under the same names, or remove them from the file"
        _refuse(unread, len(names), f"images in {folder} are of a format that cannot be read here", fix, fields)
    return files


def _can_be_read(path: Path, readable: set[str]) -> bool:
    """Whether a picture with an extension of its own opens; one look per extension that does."""
    suffix = path.suffix.casefold()
    if suffix not in readable:
        try:
            image_size(path, max_image_pixels=sys.maxsize)
        except DataError:
            return False
        readable.add(suffix)
    return True


def _check_inside(name: str, image_id: int, folder: Path, fields: Fields) -> None:
    where = f"file_name {short(name)} of image {image_id}"
    pure, windows = PurePosixPath(name), PureWindowsPath(name)
    steps = (*pure.parts, *windows.parts, *PureWindowsPath(unquote(name)).parts)
    if pure.is_absolute() or windows.anchor or ".." in steps:
        raise fields.refuse(
            f"it leaves the image folder {folder}", where, "it has to be a path relative to that folder"
        )
    if not name.strip() or "\0" in name:
        raise fields.refuse("it is no file name", where)


def _canonical(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _respelt(name: str, folder: Path, spellings: dict[str, list[str]]) -> list[str]:
    for candidate in _candidates(name, folder):
        found = spellings.get(_canonical(candidate), [])
        if found:
            exact = [known for known in found if unicodedata.normalize("NFC", known) == unicodedata.normalize(
                "NFC", candidate)]  # fmt: skip
            return exact if len(exact) == 1 else found
    return []


def _candidates(name: str, folder: Path) -> Iterator[str]:
    own = _canonical(folder.absolute().as_posix()).strip("/").split("/")
    for text in dict.fromkeys((name, unquote(name))):
        parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
        yield "/".join(parts)
        # "train2017/a.jpg" for a file in the folder train2017
        for cut in range(1, len(parts)):
            if [_canonical(part) for part in parts[:cut]] == own[-cut:]:
                yield "/".join(parts[cut:])


def name_of_url(url: str) -> str:
    """LVIS names images by ``coco_url``: the last folder and the file, such as ``val2017/000000000139.jpg``."""
    return "/".join(unquote(urlsplit(url).path).strip("/").split("/")[-2:])


def _refuse(names: list[str], count: int, what: str, fix: str, fields: Fields) -> None:
    if not fields.findings.collect:
        raise DataError(f"{fields.path}: {len(names)} of {count} {what}: {some(names, 3)}; {fix}.")
    for name in names:
        fields.findings.refused_because(fields.path, what, fix, short(name))
