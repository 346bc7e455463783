"""A look at label maps before training: is there something to learn, and are the ids what they seem?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dyvision.data.cityscapes_labels import LabelTable
from dyvision.data.errors import DataError
from dyvision.data.files import ImageReader
from dyvision.data.findings import Findings
from dyvision.data.loaders import IGNORE_INDEX
from dyvision.text import some

_LOOKS = 12
_TRAIN_IDS = 19


def look_at_labels(paths: Sequence[str], table: LabelTable, reader: ImageReader, findings: Findings) -> None:
    """Reads a few label maps, spread over the set; all of them only as long as every pixel is ignored.

    Args:
        paths: Label maps of the training split; not empty.
        table: Which ids become which class.
        reader: How they are read.
        findings: Is told.

    Raises:
        DataError: If every pixel of every map is ignored, or a map cannot be read.
    """
    spread = [paths[position * len(paths) // min(_LOOKS, len(paths))] for position in range(min(_LOOKS, len(paths)))]
    ids: set[int] = set()
    labelled = False
    looked = set(spread)
    for number, path in enumerate([*spread, *(path for path in paths if path not in looked)]):
        if number >= len(spread) and labelled:
            break
        try:
            found = table.label_ids(path, reader)
        except DataError:
            if not findings.collect:
                raise
            labelled = True  # it cannot be read, which a check of the whole set tells of each file; others may be fine
            continue
        ids.update(found.tolist())
        labelled |= bool(table.is_trained(found).any())
    if not labelled:
        findings.refused_because(
            paths[0],
            f"every pixel of the training split is ignored: the label maps hold the ids {some(sorted(ids), 8)}, and "
            f"none of them is a class ({some(table.names, 4)})",
            "set label_table to what the ids mean, such as {0: background, 255: foreground}",
        )
    elif table.official and _look_like_train_ids(ids, table):
        findings.warned(
            paths[0],
            f"the label maps hold only ids from 0 to {_TRAIN_IDS - 1} and {IGNORE_INDEX} ({some(sorted(ids), 8)}), as "
            "train ids do",
            "read as labelIds, where most of them are ignored; if 0 is road, set label_suffix to the end of the file "
            "names if that is TrainIds, else label_table to {0: road, 1: sidewalk, ...}",
        )


def _look_like_train_ids(ids: set[int], table: LabelTable) -> bool:
    if not ids <= {*range(_TRAIN_IDS), IGNORE_INDEX}:
        return False
    values = np.array(sorted(ids - {IGNORE_INDEX}), dtype=np.int64)
    trained = table.is_trained(values)
    return bool((~trained).sum() > trained.sum())
