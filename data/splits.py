"""Which images belong to a split: a fraction of the training images, or a list of names in a text file."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from dyvision.data.errors import DataError, describe
from dyvision.data.files import read_text


def choose_validation(
    names: Sequence[str], fraction: float, seed: int = 0, strata: Sequence[int] | None = None
) -> list[int]:
    """Chooses samples for validation.

    Names are ordered by a hash, within each class, and every ``1 / fraction``-th is taken. So the choice depends on the
    names and the seed only, not on the order of the files, and every class has its share. A class with one sample keeps
    it for training.

    Args:
        names: Of all samples, different from each other.
        fraction: How many, in (0, 1).
        seed: Another one gives another choice.
        strata: Class of each sample; None treats all alike.

    Returns:
        Positions, ascending; at least one, and not all of any class.

    Raises:
        ValueError: If there are fewer than two samples.
    """
    if len(names) < 2:
        raise ValueError(f"{len(names)} samples cannot be divided into training and validation")
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(names)):
        groups[0 if strata is None else strata[position]].append(position)
    if all(len(group) < 2 for group in groups.values()):
        groups = {0: list(range(len(names)))}
    chosen: list[int] = []
    due = 0.5  # the rounding of one class is made up for in the next
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda position: _digest(names[position], seed))
        due += fraction * len(group) if len(group) > 1 else 0
        take = min(int(due), len(group) - 1)
        chosen += group[:take]
        due -= take
    if not chosen:
        largest = max(groups.values(), key=len)
        chosen = [min(largest, key=lambda position: _digest(names[position], seed))]
    return sorted(chosen)


def _digest(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def shared_images(train: Iterable[str], val: Iterable[str]) -> list[str]:
    """Images of the second list that are in the first, links between folders resolved."""
    folders: dict[str, str] = {}

    def real(path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        return os.path.join(folders[folder], name)

    trained = {real(path) for path in train}
    return [path for path in val if real(path) in trained]


def read_split_file(path: Path) -> list[str]:
    """Lines of a list of samples, such as VOC's ``ImageSets/Segmentation/train.txt``; empty ones and ``#`` left out.

    Raises:
        DataError: If there is no such file, or nothing in it.
    """
    if not path.is_file():
        raise DataError(f"split_file: there is no file {path} ({path.parent}: {describe(path.parent)}).")
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{path}: no names; expected one sample per line.")
    return lines


def split_line(line: str, root: Path, split: str) -> tuple[str, str]:
    """File and class of a line of a classification list.

    Args:
        line: ``file``, whose folder is its class, or ``file class`` with a space, tab or comma between.
        root: What ``file`` is relative to, or ``<root>/<split>``.
        split: Name of the split.

    Raises:
        DataError: If there is no such file.
    """
    whole = _find(line, root, split)
    if whole is not None:
        return whole, os.path.basename(os.path.dirname(whole))
    for separator in ("\t", ",", " "):
        name, found, label = line.rpartition(separator)
        file = _find(name.strip(), root, split) if found else None
        if file is not None:
            return file, label.strip()
    raise DataError(
        f"there is no image {line!r} below {root} or {root / split}; expected lines of 'file' or 'file class'."
    )


def _find(name: str, root: Path, split: str) -> str | None:
    return next((os.path.normpath(base / name) for base in (root, root / split) if (base / name).is_file()), None)
