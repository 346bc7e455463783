"""Names of class folders: one spelling for the same letters, and the file that says what they are called."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from dyvision.data.errors import DataError, some
from dyvision.data.files import read_text
from dyvision.text import readable


def normal(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes ``ä`` as two characters, others as one, encodable."""
    return unicodedata.normalize("NFC", readable(name))


def read_class_names(path: Path, folders: Sequence[str]) -> list[str]:
    """Names of classes from a text file.

    Lines are ``folder name``, ``number name`` (from 0 or 1, in the order of the folders), one name each in the order of
    the folders, or only the folders' own names, in any order and with others between.

    Args:
        path: The file.
        folders: Class folders in the order of the labels.

    Returns:
        A name for each folder. Of ImageNet's synonyms the first, unless two classes share it.

    Raises:
        DataError: If the file is in an unknown encoding, or a folder has no name in it.
    """
    lines = [normal(line.strip()) for line in read_text(path).splitlines() if line.strip()]
    long = _match(_without_numbers(lines, folders), folders, path)
    # ImageNet lists synonyms; the first is enough unless two classes share it ("crane" is a bird and a machine)
    short = [name.split(",")[0].strip() for name in long]
    return [
        name if short.count(name) == 1 else f"{whole} ({folder})"
        for name, whole, folder in zip(short, long, folders, strict=True)
    ]


def _without_numbers(lines: list[str], folders: Sequence[str]) -> list[str]:
    """The lines without the number each begins with, in the order of the numbers; as they are where they have none."""
    split = [line.split(None, 1) for line in lines]
    numbers = [int(parts[0]) for parts in split if len(parts) == 2 and parts[0].isascii() and parts[0].isdigit()]
    first = min(numbers, default=0)
    if len(numbers) != len(lines) or first > 1 or sorted(numbers) != list(range(first, first + len(lines))):
        return lines
    if any(parts[0] in folders for parts in split):
        return lines
    return [name for _, name in sorted(zip(numbers, (parts[1] for parts in split), strict=True))]


def _match(lines: list[str], folders: Sequence[str], path: Path) -> list[str]:
    if set(folders) <= set(lines):  # a list of the folders themselves says nothing about their order
        return list(folders)
    split = [line.split("\t", 1) if "\t" in line else line.split(None, 1) for line in lines]
    by_folder = {parts[0]: parts[1].strip() for parts in split if len(parts) == 2}
    # folders with spaces in their names have to be followed by a tab, or by the longest match
    for folder in folders:
        if folder not in by_folder:
            rest = [line[len(folder) :] for line in lines if line.startswith(folder)]
            named = [text.strip() for text in rest if text[:1] in (" ", "\t") and text.strip()]
            if " " in folder and len(named) == 1:
                by_folder[folder] = named[0]
    if all(folder in by_folder for folder in folders):
        return [by_folder[folder] for folder in folders]
    mentioned = {*by_folder, *lines} & set(folders)
    if len(lines) == len(folders) and not mentioned:
        return lines
    missing = [folder for folder in folders if folder not in by_folder]
    raise DataError(
        f"{path}: no name for the class folders {some(missing)}; write one line per class: folder, tab, name."
    )
