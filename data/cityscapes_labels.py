"""Cityscapes' label table, and tables of one's own.

The 35 labels are those of the official ``cityscapesscripts/helpers/labels.py``; 19 of them are trained on, in the order
of their ids. Everything else is ignored (255).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dyvision.data.class_names import normal
from dyvision.data.errors import DataError, did_you_mean
from dyvision.data.files import ImageReader
from dyvision.data.label_colors import VOC_BORDER, VOC_COLORS, checked_colors
from dyvision.data.loaders import IGNORE_INDEX
from dyvision.data.picture import Picture
from dyvision.data.pixels import is_lossy, to_label_ids, to_packed_colors
from dyvision.text import some
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
_FEW = (1, 3, 15)  # largest ids of label maps with 1, 2 and 4 bits
_SMALL = (np.dtype(np.uint8), np.dtype(np.uint16))  # types whose values are all valid positions of a table
_NO_LABEL = -1  # what tools write into signed label maps for "nothing here"


def train_id_table() -> dict[int, str]:
    """Names of the 19 train ids, which ``*_labelTrainIds.png`` hold instead of labelIds."""
    return {label.train_id: label.name for label in CITYSCAPES_LABELS if label.train_id != IGNORE_INDEX}


class SizeError(ValueError):
    """A label map is not of the size of its image.

    Args:
        height: Of the label map.
        width: Of the label map.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__(f"the label map is {height}x{width} (height x width)")
        self.size = (height, width)


class LabelTable:
    """Which label ids, or colours, become which class.

    Args:
        classes: Names to train on, in the order of their train ids; if None, Cityscapes' 19 or, with ``label_table`` or
            ``label_colors``, all of its names.
        label_table: ``{labelId: name}`` of another data set; Cityscapes' table if None. Ids of one name are one class.
        ignore_ids: Further ids that may occur and are ignored. 255 always is, and so is -1.
        label_colors: ``{name: (r, g, b)}`` of label maps drawn in colours, or ``"voc"`` or ``"cityscapes"`` for theirs;
            the ids are then 0, 1, ... in this order.

    Attributes:
        names: Class names.
        colors: ``[r, g, b]`` of each class.
        ids: labelId of each class; of several with one name, the first.
        official: Whether this is Cityscapes' table of labelIds.

    Raises:
        ValueError: If a name is not in the table or given twice, or an id or a colour is out of range.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        label_table: Mapping[int, str] | None = None,
        ignore_ids: Sequence[int] = (),
        label_colors: Mapping[str, Sequence[int]] | str | None = None,
    ) -> None:
        self.official = label_table is None and label_colors is None
        drawn, border = _drawn(label_colors)
        if drawn:
            if label_table is not None:
                raise ValueError(
                    "give label_table, for label maps of ids, or label_colors, for coloured ones, not both."
                )
            label_table = dict(enumerate(drawn))
        if label_table is None:
            table = {label.id: label.name for label in CITYSCAPES_LABELS if label.id >= 0}
            default = [label.name for label in CITYSCAPES_LABELS if label.train_id != IGNORE_INDEX]
        else:
            table = {int(label_id): normal(str(name)) for label_id, name in label_table.items()}
            default = list(dict.fromkeys(table.values()))
        wrong = [label_id for label_id in (*table, *ignore_ids) if not 0 <= label_id <= _MAX_ID]
        if wrong:
            raise ValueError(f"label ids {some(wrong)}: expected 0 to {_MAX_ID}.")
        self.names = default if classes is None else [normal(str(name)) for name in classes]
        self._check(self.names, set(table.values()))
        self.ids = [next(label_id for label_id, value in table.items() if value == name) for name in self.names]
        official = {label.name: list(label.color) for label in CITYSCAPES_LABELS}
        made_up = {name: color for name, color in zip(self.names, palette(len(self.names)), strict=True)}
        known = {name: list(color) for name, color in drawn.items()} or official
        self.colors = [known.get(name, made_up[name]) for name in self.names]
        self._lookup = np.full(_MAX_ID + 1, -1, dtype=np.int16)
        self._lookup[[IGNORE_INDEX, *ignore_ids]] = IGNORE_INDEX
        for label_id, name in table.items():
            self._lookup[label_id] = self.names.index(name) if name in self.names else IGNORE_INDEX
        packed = {(r << 16) | (g << 8) | b: self._lookup[label] for label, (r, g, b) in enumerate(drawn.values())}
        packed |= {(r << 16) | (g << 8) | b: IGNORE_INDEX for r, g, b in border}
        self._packed = np.array(sorted(packed), dtype=np.int64)
        self._packed_classes = np.array([packed[key] for key in sorted(packed)], dtype=np.int16)

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

    def read(self, path: str, reader: ImageReader, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Reads a label map as class indices ``[H, W]``, 255 where ignored.

        Args:
            path: The file.
            reader: How it is read.
            size: Height and width that it has to have.

        Raises:
            DataError: If it cannot be read, or holds ids or colours outside the table; the message names the file.
            SizeError: If it is of another size.
        """
        picture = reader.label_image(path)
        if size is not None and picture.size != size:
            raise SizeError(*picture.size)
        if len(self._packed):
            return self._from_colors(picture, path)
        try:
            return self.to_train_ids(self._ids_of(picture, path, reader), path)
        except DataError as error:
            if not is_lossy(picture):
                raise
            raise DataError(
                f"{str(error).rstrip('.')}; {picture.image.format} changes pixel values when it saves "
                "them: write label maps as PNG."
            ) from error

    def label_ids(self, path: str, reader: ImageReader) -> NDArray[np.int64]:
        """The different ids in a label map, ascending; of a coloured one, the class indices."""
        picture = reader.label_image(path)
        if len(self._packed):
            return np.unique(self._from_colors(picture, path)).astype(np.int64)
        ids = self._ids_of(picture, path, reader)
        if ids.dtype in _SMALL:
            return np.flatnonzero(np.bincount(ids.reshape(-1))).astype(np.int64)
        return np.unique(ids).astype(np.int64)

    def is_trained(self, label_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether ids, as ``label_ids`` gives them, are classes and not ignored."""
        if len(self._packed):
            return label_ids != IGNORE_INDEX
        known = self._lookup[label_ids.clip(0, _MAX_ID)]
        return (known >= 0) & (known != IGNORE_INDEX) & (label_ids >= 0)

    def _ids_of(self, picture: Picture, path: str, reader: ImageReader) -> NDArray[np.integer[Any]]:
        tell = reader.tell_about(path, "repaired")
        try:
            ids = to_label_ids(picture, tell)
        except ValueError as error:
            raise DataError(f"{path}: {error}.") from error
        largest = 1 if picture.image.mode == "1" else picture.largest
        if largest in _FEW:  # tools that make files smaller store 0 and 255 in one bit, and other greys in two or four
            shown = np.unique(ids) * (255 // largest)
            stored = self._lookup[np.unique(ids)]
            if (stored < 0).any() and self.is_trained(shown[shown > 0].astype(np.int64)).all():
                bits = largest.bit_length()
                tell(f"a label map of {bits} bits, and the table has only the greys that its ids are shown as",
                     f"1 is read as {255 // largest}")  # fmt: skip
                ids = ids * (255 // largest)
        if ids.dtype not in _SMALL and (ids == _NO_LABEL).any():
            tell("label id -1", "ignored")
        return ids

    def to_train_ids(self, label_ids: NDArray[np.integer[Any]], path: str = "the label map") -> NDArray[np.uint8]:
        """Label ids ``[H, W]`` to class indices ``[H, W]``, 255 where ignored.

        Raises:
            DataError: If an id is not in the table; the message names the file and the ids.
        """
        if label_ids.dtype in _SMALL:
            mapped = self._lookup[label_ids]
        else:
            inside = label_ids.clip(0, _MAX_ID)
            mapped = self._lookup[inside]
            outside = inside != label_ids
            if outside.any():
                mapped = np.where(outside, np.where(label_ids == _NO_LABEL, IGNORE_INDEX, -1), mapped)
        unknown = mapped < 0
        if unknown.any():
            ids = np.unique(label_ids[unknown]).tolist()
            raise DataError(
                f"{path}: label ids outside the table: {some(ids)}; add them to label_table (their class) or to "
                "ignore_ids."
            )
        return mapped.astype(np.uint8)

    def _from_colors(self, picture: Picture, path: str) -> NDArray[np.uint8]:
        try:
            colors = to_packed_colors(picture)
        except ValueError as error:
            raise DataError(f"{path}: {error}.") from error
        position = np.searchsorted(self._packed, colors).clip(max=len(self._packed) - 1)
        unknown = self._packed[position] != colors
        if unknown.any():
            values = np.unique(colors[unknown]).tolist()
            named = some([[value >> 16, value >> 8 & 255, value & 255] for value in values], 4)
            raise DataError(
                f"{path}: {int(unknown.sum())} pixels of colours outside label_colors: {named}; add them, and save "
                "label maps as PNG without smoothing."
            )
        return self._packed_classes[position].astype(np.uint8)


def _drawn(
    label_colors: Mapping[str, Sequence[int]] | str | None,
) -> tuple[dict[str, tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Colour of every name, and colours that are ignored."""
    if label_colors is None:
        return {}, []
    if label_colors == "voc":
        return dict(VOC_COLORS), [VOC_BORDER]
    if label_colors == "cityscapes":
        trained = [label for label in CITYSCAPES_LABELS if label.train_id != IGNORE_INDEX]
        used = {label.color for label in trained}
        others = {label.color for label in CITYSCAPES_LABELS} - used
        return {label.name: label.color for label in trained}, sorted(others)
    return checked_colors(label_colors), []
