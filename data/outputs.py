"""Files that are written about a data set never take the place of one that belongs to it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dyvision.data.errors import DataError

#: what a contact sheet names as its software, so that it may be drawn anew
SHEET = "dyvision contact sheet"

#: options of the data modules that may lead out of the root
_PATHS = ("images", "annotations", "image_dir", "label_dir", "words", "split_file", "predict_root")


def refuse_over_data(output: Path, root: Path, options: Mapping[str, Any], name: str) -> None:
    """Refuses a file to write that is one of the data set's.

    Args:
        output: The file to write.
        root: Folder of the data set.
        options: Those of its data module, or none.
        name: Of the option, for messages.

    Raises:
        DataError: If the file is there and, links resolved, lies in a folder of the data set.
    """
    if not os.path.lexists(output) or _is_report(output) or _is_sheet(output):
        return
    target = Path(os.path.realpath(output))
    for place in (root, *(Path(str(options[key])) for key in _PATHS if options.get(key))):
        # "elsewhere/{split}/images": everything below the part that all splits have in common
        steps = (root / place).expanduser().parts if place != root else place.expanduser().parts
        fixed = next((k for k, step in enumerate(steps) if "{split}" in step), len(steps))
        folder = Path(os.path.realpath(Path(*steps[:fixed])))
        if target == folder or (folder in target.parents and folder.is_dir()) or _same(target, folder):
            raise DataError(
                f"{name} {output}: this file lies in the data set ({folder}) and would be overwritten; write somewhere "
                "else, or remove it first."
            )


def _is_report(path: Path) -> bool:
    """Whether a file is an earlier report of a check, which may be written anew."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"".join(file.read(32).split()).startswith(b'{"refused":')


def _is_sheet(path: Path) -> bool:
    """Whether a file is an earlier contact sheet; nothing is decoded."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            exif = image.info.get("exif")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # no picture, or none to open
        return False
    return isinstance(exif, bytes) and SHEET.encode() in exif


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
