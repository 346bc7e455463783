"""Text files that list the samples of a split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dyvision.data.errors import DataError, describe
from dyvision.data.files import image_size, is_image, read_lines
from dyvision.data.findings import Findings

#: classes that a list may number; a network with more is none that anybody meant
MOST_CLASSES = 100_000
_EXPECTED = "lines of 'file' or 'file class'"


class ListedImage(NamedTuple):
    """A line of a classification list.

    Attributes:
        file: The image.
        label: What the line says, or the name of the folder.
        number: ``label`` as a number, if the line says one.
        line: Where, from 1.
    """

    file: str
    label: str
    number: int | None
    line: int


def read_split_file(path: Path) -> list[tuple[int, str]]:
    """Lines of a list of samples, such as VOC's ``ImageSets/Segmentation/train.txt``; empty ones and ``#`` left out.

    Returns:
        Number, from 1, and text of each line.

    Raises:
        DataError: If there is no such file, or nothing in it.
    """
    if not path.is_file():
        raise DataError(f"split_file: there is no file {path} ({path.parent}: {describe(path.parent)}).")
    lines = [(number, line.strip()) for number, line in enumerate(read_lines(path), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{path}: no names; expected one sample per line.")
    return lines


def read_listed_images(path: Path, root: Path, split: str, findings: Findings) -> list[ListedImage]:
    """Reads a classification list.

    A line is ``file``, whose folder is its class, or ``file class`` with a tab, comma or space between.

    Args:
        path: The list.
        root: What ``file`` is relative to, or ``<root>/<split>``.
        split: Name of the split.
        findings: Is told what is refused, with the line.

    Returns:
        The images, as far as they are not refused.

    Raises:
        DataError: If a line cannot be used, unless refusals are collected.
    """
    found = []
    for number, line in read_split_file(path):
        file, label = _split(line, root, split)
        where = f"line {number}"
        if file is None:
            hint = "write / between folders" if "\\" in line else "correct or remove the line"
            if number == 1 and "." not in line:
                hint = "remove the line if it is a header"
            findings.refused_because(
                path, f"there is no image {line!r} below {root} or {root / split}; expected {_EXPECTED}", hint, where
            )
            continue
        if leaves(file, root):
            findings.refused_because(
                path, f"{file!r} leaves the root {root}", "it has to be a path below the root", where
            )
            continue
        if not is_image(os.path.basename(file)) and not _opens(file):
            findings.refused_because(path, f"{file!r} is no image", "correct or remove the line", where)
            continue
        value = None
        if label is not None and label.isascii() and label.isdigit():
            value = int(label) if len(label.lstrip("0")) <= 18 else MOST_CLASSES
            if value >= MOST_CLASSES:
                what = f"the class number {label} is too large; expected 0 to {MOST_CLASSES - 1}"
                findings.refused_because(path, what, "correct the line", where)
                continue
        folder = os.path.basename(os.path.dirname(file))
        found.append(ListedImage(file, folder if label is None else label, value, number))
    return found


def leaves(file: str | os.PathLike[str], root: Path) -> bool:
    """Whether a path, links not resolved, is none below a folder."""
    path = os.path.abspath(file)
    bases = (os.path.abspath(root), os.path.realpath(root))
    return not any(path.startswith(base.rstrip(os.sep) + os.sep) for base in bases)


def _split(line: str, root: Path, split: str) -> tuple[str | None, str | None]:
    """File and class of a line; no class where the whole line is a file, no file where there is none."""
    whole = _find(line, root, split)
    if whole is not None:
        return whole, None
    for separator in ("\t", ",", " "):
        name, found, label = line.rpartition(separator)
        file = _find(name.strip(), root, split) if found else None
        if file is not None:
            return file, label.strip()
    return None, None


def _find(name: str, root: Path, split: str) -> str | None:
    candidates = (os.path.normpath(os.path.join(base, name)) for base in (root, root / split))
    return next((path for path in candidates if os.path.isfile(path)), None)


def _opens(file: str) -> bool:
    try:
        image_size(file)
    except DataError:
        return False
    return True
