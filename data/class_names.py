"""Names of classes: one spelling for the same letters, and the file that says what class folders are called."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dyvision.data.errors import DataError
from dyvision.data.files import read_lines
from dyvision.text import printable, readable, some

_SEPARATORS = "\t ,;:=|"
_SEPARATOR = re.compile(f"[{_SEPARATORS}]+")
_NUMBERED = re.compile(rf"(\d+)[{_SEPARATORS}.)]+(.+)", re.ASCII)


def normal(name: str) -> str:
    """A name in Unicode's composed form (NFC), without control characters and encodable.

    macOS writes ``ä`` as two characters, others as one; controls become escapes.
    """
    return printable(unicodedata.normalize("NFC", readable(name)))


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Names that differ only in case, in spaces and underscores, in Unicode's form or in characters not seen."""
    groups: dict[str, list[str]] = {}
    for name in names:
        seen = re.sub(r"\\(x..|u.{4}|U.{8}|[nrt])", "", name)  # escapes that `normal` has made
        key = re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", seen)).strip().casefold()
        groups.setdefault(key, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def read_class_names(path: Path, folders: Sequence[str]) -> list[str]:
    """Names of classes from a text file.

    Lines are ``folder name`` with a tab, spaces, a comma or ``: ; = |`` between, ``number name`` (from 0 or 1, in the
    order of the folders), one name each in the order of the folders, or only the folders' own names, in any order and
    with others between. Folders are found in other case, too.

    Args:
        path: The file.
        folders: Class folders in the order of the labels.

    Returns:
        A name for each folder. Of ImageNet's synonyms the first, unless two classes share it.

    Raises:
        DataError: If the file is in an unknown encoding, a folder has no name in it or two, or its lines name folders
            in another order than theirs.
    """
    stripped = ("\t".join(map(normal, line.strip().split("\t"))) for line in read_lines(path))
    lines = [line for line in stripped if line]
    long = _match(_without_numbers(lines, folders), folders, path)
    # ImageNet lists synonyms; the first is enough unless two classes share it ("crane" is a bird and a machine)
    short = [name.split(",")[0].strip() for name in long]
    return [
        name if short.count(name) == 1 else f"{whole} ({folder})"
        for name, whole, folder in zip(short, long, folders, strict=True)
    ]


def _without_numbers(lines: list[str], folders: Sequence[str]) -> list[str]:
    """The lines without the number each begins with, in the order of the numbers; as they are where they have none."""
    split = [_NUMBERED.fullmatch(line) for line in lines]
    numbers = [int(parts[1]) for parts in split if parts]
    first = min(numbers, default=0)
    if len(numbers) != len(lines) or first > 1 or sorted(numbers) != list(range(first, first + len(lines))):
        return lines
    if any(parts[1] in folders for parts in split if parts):
        return lines
    return [name for _, name in sorted(zip(numbers, (parts[2] for parts in split if parts), strict=True))]


def _match(lines: list[str], folders: Sequence[str], path: Path) -> list[str]:
    if set(folders) <= set(lines):  # a list of the folders themselves says nothing about their order
        return list(folders)
    known = set(folders)
    by_case: dict[str, str | None] = {}
    for folder in folders:
        by_case[folder.casefold()] = None if folder.casefold() in by_case else folder
    # names of each folder: followed by a tab, by something else, in other case
    found: list[dict[str, list[str]]] = [{}, {}, {}]
    for line in lines:
        starts = list(_starts(line))
        exact = next(((start, name) for start, name in starts if start in known), None)
        folded = next(
            ((by_case[start.casefold()], name) for start, name in starts if start.casefold() in by_case), None
        )
        if exact is not None:
            found[0 if line.startswith(exact[0] + "\t") else 1].setdefault(exact[0], []).append(exact[1])
        elif folded is not None and folded[0] is not None:
            found[2].setdefault(folded[0], []).append(folded[1])
    names = {folder: next((kind[folder] for kind in found if folder in kind), []) for folder in folders}
    if all(names.values()):
        several = [folder for folder in folders if len(set(names[folder])) > 1]
        if several:
            raise DataError(f"{path}: several names for the class folders {some(several)}; write one line per class.")
        return [names[folder][0] for folder in folders]
    if len(lines) == len(folders) and _in_order(lines, folders):
        return lines
    missing = [folder for folder in folders if not names[folder]]
    raise DataError(
        f"{path}: no name for the class folders {some(missing)}; write one line per class: folder, tab, name."
    )


def _starts(line: str) -> Iterator[tuple[str, str]]:
    """What could be the folder of a line, the longest first, and the name that would follow it."""
    yield _unquoted(line), _unquoted(line)
    for gap in reversed(list(_SEPARATOR.finditer(line))):
        name = line[gap.end() :].strip(_SEPARATORS)
        if name:
            yield _unquoted(line[: gap.start()]), _unquoted(name)


def _unquoted(text: str) -> str:
    text = text.strip(_SEPARATORS)
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


def _in_order(lines: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether no line has the name of another line's folder among its words."""
    places = {folder.casefold(): place for place, folder in enumerate(folders)}
    for place, line in enumerate(lines):
        words = {_unquoted(word).casefold() for word in _SEPARATOR.split(line)} | {line.casefold()}
        if any(places.get(word, place) != place for word in words):
            return False
    return True
