"""Cityscapes' label table, and tables of one's own.

The 35 labels are those of the official ``cityscapesscripts/helpers/labels.py``; 19 of them are trained on, in the order
of their ids. Everything else is ignored (255).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dyvision.data.errors import DataError, did_you_mean, some
from dyvision.data.loaders import IGNORE_INDEX
from dyvision.visualize import palette


class CityscapesLabel(NamedTuple):
    """One row of the table.

    Attributes:
        name: Official name.
        id: labelId, the value in ``*_labelIds.png`` (-1, the license plate, is stored as 255).
        train_id: Position among the 19 classes, or 255.
        color: Official ``(r, g, b)``.
    """

    name: str
    id: int
    train_id: int
    color: tuple[int, int, int]


CITYSCAPES_LABELS = tuple(
    CityscapesLabel(*row)
    for row in (
        ("unlabeled", 0, 255, (0, 0, 0)),
        ("ego vehicle", 1, 255, (0, 0, 0)),
        ("rectification border", 2, 255, (0, 0, 0)),
        ("out of roi", 3, 255, (0, 0, 0)),
        ("static", 4, 255, (0, 0, 0)),
        ("dynamic", 5, 255, (111, 74, 0)),
        ("ground", 6, 255, (81, 0, 81)),
        ("road", 7, 0, (128, 64, 128)),
        ("sidewalk", 8, 1, (244, 35, 232)),
        ("parking", 9, 255, (250, 170, 160)),
        ("rail track", 10, 255, (230, 150, 140)),
        ("building", 11, 2, (70, 70, 70)),
        ("wall", 12, 3, (102, 102, 156)),
        ("fence", 13, 4, (190, 153, 153)),
        ("guard rail", 14, 255, (180, 165, 180)),
        ("bridge", 15, 255, (150, 100, 100)),
        ("tunnel", 16, 255, (150, 120, 90)),
        ("pole", 17, 5, (153, 153, 153)),
        ("polegroup", 18, 255, (153, 153, 153)),
        ("traffic light", 19, 6, (250, 170, 30)),
        ("traffic sign", 20, 7, (220, 220, 0)),
        ("vegetation", 21, 8, (107, 142, 35)),
        ("terrain", 22, 9, (152, 251, 152)),
        ("sky", 23, 10, (70, 130, 180)),
        ("person", 24, 11, (220, 20, 60)),
        ("rider", 25, 12, (255, 0, 0)),
        ("car", 26, 13, (0, 0, 142)),
        ("truck", 27, 14, (0, 0, 70)),
        ("bus", 28, 15, (0, 60, 100)),
        ("caravan", 29, 255, (0, 0, 90)),
        ("trailer", 30, 255, (0, 0, 110)),
        ("train", 31, 16, (0, 80, 100)),
        ("motorcycle", 32, 17, (0, 0, 230)),
        ("bicycle", 33, 18, (119, 11, 32)),
        ("license plate", -1, 255, (0, 0, 142)),
    )
)

_MAX_ID = 65535


class LabelTable:
    """Which label ids become which class.

    Args:
        classes: Names to train on, in the order of their train ids; if None, Cityscapes' 19 or, with ``label_table``,
            all of its names.
        label_table: ``{labelId: name}`` of another data set; Cityscapes' table if None. Ids of one name are one class.
        ignore_ids: Further ids that may occur and are ignored. 255 always is.

    Attributes:
        names: Class names.
        colors: ``[r, g, b]`` of each class.
        ids: labelId of each class; of several with one name, the first.

    Raises:
        ValueError: If a name is not in the table or given twice, or an id is out of range.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        label_table: Mapping[int, str] | None = None,
        ignore_ids: Sequence[int] = (),
    ) -> None:
        if label_table is None:
            table = {label.id: label.name for label in CITYSCAPES_LABELS if label.id >= 0}
            default = [label.name for label in CITYSCAPES_LABELS if label.train_id != IGNORE_INDEX]
        else:
            table = {int(label_id): str(name) for label_id, name in label_table.items()}
            default = list(dict.fromkeys(table.values()))
        wrong = [label_id for label_id in (*table, *ignore_ids) if not 0 <= label_id <= _MAX_ID]
        if wrong:
            raise ValueError(f"label ids {some(wrong)}: expected 0 to {_MAX_ID}.")
        self.names = list(default if classes is None else classes)
        self._check(self.names, set(table.values()))
        self.ids = [next(label_id for label_id, value in table.items() if value == name) for name in self.names]
        official = {label.name: list(label.color) for label in CITYSCAPES_LABELS}
        made_up = palette(len(self.names))
        self.colors = [official.get(name, made_up[index]) for index, name in enumerate(self.names)]
        self._lookup = np.full(_MAX_ID + 1, -1, dtype=np.int16)
        self._lookup[[IGNORE_INDEX, *ignore_ids]] = IGNORE_INDEX
        for label_id, name in table.items():
            self._lookup[label_id] = self.names.index(name) if name in self.names else IGNORE_INDEX

    @staticmethod
    def _check(names: Sequence[str], known: set[str]) -> None:
        for name in names:
            if name not in known:
                raise ValueError(f"classes: there is no label {name!r}.{did_you_mean(name, sorted(known))}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"classes: {some(twice)} given twice.")
        if not 0 < len(names) < IGNORE_INDEX:
            raise ValueError(f"classes: expected 1 to {IGNORE_INDEX - 1} names, got {len(names)}.")

    def to_train_ids(self, label_ids: NDArray[np.int64], path: str = "the label map") -> NDArray[np.uint8]:
        """Label ids ``[H, W]`` to class indices ``[H, W]``, 255 where ignored.

        Raises:
            DataError: If an id is not in the table; the message names the file and the ids.
        """
        inside = label_ids.clip(0, _MAX_ID)
        mapped = self._lookup[inside]
        unknown = (mapped < 0) | (inside != label_ids)
        if unknown.any():
            ids = np.unique(label_ids[unknown]).tolist()
            raise DataError(
                f"{path}: label ids outside the table: {some(ids)}; add them to label_table (their class) or to "
                "ignore_ids."
            )
        return mapped.astype(np.uint8)
