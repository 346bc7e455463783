"""Reads and checks an ``instances_*.json`` before anything is trained on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from dyvision.data._packed import PackedList
from dyvision.data.coco_categories import check_categories
from dyvision.data.coco_checks import check_boxes, clip_boxes
from dyvision.data.coco_fields import Fields
from dyvision.data.coco_files import find_files
from dyvision.data.coco_images import ImageTable
from dyvision.data.coco_segmentations import Segmentations
from dyvision.data.coco_stream import read_json
from dyvision.data.coco_table import AnnotationTable
from dyvision.data.errors import DataError
from dyvision.data.files import ImageReader
from dyvision.data.findings import Findings
from dyvision.text import some

#: of annotations; larger ones get a number of ours
_LARGEST_ID = 2**62


class CocoImage(NamedTuple):
    """One image of an annotation file.

    Attributes:
        id: Image id.
        path: The file.
        height: Pixels.
        width: Pixels.
        annotations: COCO's annotation dictionaries, crowds included: what COCOeval needs, with numbers where the file
            has text or nothing, and segmentations that pycocotools can be given.
        boxes: float64 ``[N, 4]`` xyxy, clipped to the image, of the annotations to train on.
        rows: Position in ``annotations`` of each of ``boxes``.
    """

    id: int
    path: str
    height: int
    width: int
    annotations: list[dict[str, Any]]
    boxes: NDArray[np.float64]
    rows: list[int]


class CocoFile(Sequence[CocoImage]):
    """A checked annotation file: its images in the file's order.

    All is held in a few arrays, which worker processes share; an image's dictionaries are made when it is asked for.

    Attributes:
        categories: ``{category id: name}``, by id.
        ids: Image id of each image.
        objects: Number of annotations to train on, of each image.
        labelled: Whether the file has annotations; an ``image_info`` file has none.
    """

    def __init__(
        self, categories: dict[int, str], images: ImageTable, files: Sequence[str | None], table: AnnotationTable | None
    ) -> None:
        self.categories = categories
        self.labelled = table is not None
        good_images = np.array([file is not None for file in files], dtype=np.bool_) & images.good
        self._kept = np.flatnonzero(good_images)
        self.ids: list[int] = [images.ids[k] for k in self._kept.tolist()]
        self._paths = PackedList(file for file, good in zip(files, good_images.tolist(), strict=True) if good)
        self._sizes = images.sizes[self._kept]
        self._segmentations: Segmentations | None = None
        count = len(files)
        if table is None:
            self._first = np.zeros(count + 1, dtype=np.int64)
            self.objects = np.zeros(len(self._kept), dtype=np.int64)
            self._order = np.zeros(0, dtype=np.int64)
            return
        owners, self._labels, good = table.seal(images.positions, categories)
        table.refuse_repeated()
        good &= good_images[owners]
        sizes = images.sizes[owners]
        self._boxes, self._areas, self._crowd = table.boxes, table.areas, table.crowd
        self._annotation_ids = _numbers(table.ids)
        self._trained = check_boxes(table, owners, sizes, self._labels, good)
        if table.segmentations is not None:
            self._segmentations = table.segmentations
            table.segmentations.check(sizes[:, 0], sizes[:, 1], self._boxes, self._areas, table.name)
            self._trained &= ~table.segmentations.blank
            self._masked = self._segmentations.present
        # rows by image, in the file's order
        rows = np.flatnonzero(good)
        self._order = rows[np.argsort(owners[rows], kind="stable")]
        self._first = np.searchsorted(owners[self._order], np.arange(count + 1))
        self._trained &= good
        self.objects = np.bincount(owners[self._trained], minlength=count)[self._kept]

    def require_masks(self, source: Path, findings: Findings) -> None:
        """Leaves objects without a mask out of training, with a warning.

        Raises:
            DataError: If no object has one.
        """
        had = int(self._trained.sum()) if self.labelled else 0
        if not had:
            return
        lost = int((self._trained & ~self._masked).sum())
        if lost == had:
            findings.refused_because(source, "no annotation has a segmentation", "set masks to false")
        elif lost:
            findings.warned(
                source, f"{lost} of {had} objects have no mask and are left out",
                "of training and of mask_AP; box_AP counts them",
            )  # fmt: skip
        self._trained &= self._masked
        for index in range(len(self)):
            self.objects[index] = int(self._trained[self._rows(index)].sum())

    @property
    def images(self) -> Sequence[CocoImage]:
        """The images; the file itself."""
        return self

    @property
    def paths(self) -> Sequence[str]:
        """File of each image."""
        return list(self._paths)

    def classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each object to train on its category id and the position of its image; for statistics and splits."""
        if not self.labelled:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        counts = np.diff(self._first)
        owners = np.repeat(np.arange(len(counts)), counts)
        positions = np.full(len(counts), -1)
        positions[self._kept] = np.arange(len(self._kept))
        trained = self._trained[self._order]
        return self._labels[self._order][trained], positions[owners[trained]]

    def _rows(self, index: int) -> NDArray[np.int64]:
        image = int(self._kept[index])
        rows: NDArray[np.int64] = self._order[int(self._first[image]) : int(self._first[image + 1])]
        return rows

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> CocoImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[CocoImage]: ...
    def __getitem__(self, index: int | slice) -> CocoImage | list[CocoImage]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        rows = self._rows(index)
        height, width = self._sizes[index].tolist()
        if not self.labelled:
            return CocoImage(self.ids[index], self._paths[index], height, width, [], np.zeros((0, 4)), [])
        trained = np.flatnonzero(self._trained[rows])
        annotations = [self._annotation(row, self.ids[index], height, width) for row in rows.tolist()]
        boxes = clip_boxes(self._boxes[rows[trained]], self._sizes[index : index + 1])
        return CocoImage(self.ids[index], self._paths[index], height, width, annotations, boxes, trained.tolist())

    def _annotation(self, row: int, image_id: int, height: int, width: int) -> dict[str, Any]:
        annotation = {
            "id": int(self._annotation_ids[row]),
            "image_id": image_id,
            "category_id": int(self._labels[row]),
            "bbox": self._boxes[row].tolist(),
            "area": float(self._areas[row]),
            "iscrowd": int(self._crowd[row]),
        }
        if self._segmentations is not None:
            segmentation = self._segmentations.get(row, height, width)
            if segmentation is not None:
                annotation["segmentation"] = segmentation
        return annotation


def read_coco(
    path: Path,
    folder: Path,
    findings: Findings | None = None,
    masks: bool = True,
    labels: bool = True,
    drop_root_category: bool = False,
    reader: ImageReader | None = None,
) -> CocoFile:
    """Reads an annotation file and checks it against the folder of its images.

    Text that is a number counts as that number, null as absent. Boxes of no size or wholly outside are left out of
    training, boxes that reach over the border are clipped there; evaluation keeps them as pycocotools does.

    Args:
        path: The JSON file.
        folder: Where ``file_name`` is looked up.
        findings: Where to report; if None, warnings are given at the end.
        masks: Read and check segmentations; without them they are dropped while reading.
        labels: Whether annotations are needed; if not, they are not read.
        drop_root_category: Leave out the category that Roboflow puts above all others.
        reader: How pictures are read, for the sizes that the file does not state.

    Raises:
        DataError: If the file is not COCO's format, if ids are used twice or lead nowhere, if a number is not one, or
            if an image is missing or lies outside ``folder``; not for single records if ``findings`` collects them.
    """
    report = findings is None
    findings = Findings() if findings is None else findings
    fields = Fields(path, findings)
    images, table = ImageTable(fields), AnnotationTable(fields, masks)
    data = read_json(path, {"images": images.read, **({"annotations": table.read} if labels else {})}, _UNUSED)
    _require(data, path, ("images", "annotations", "categories") if labels else ("images", "categories"))
    used = set(table.category_keys) if labels else None
    categories = check_categories(data["categories"], fields, used, drop_root_category)
    files = find_files(images.names, images.ids, folder, fields)
    images.complete(files, reader or ImageReader())
    coco = CocoFile(categories, images, files, table if labels else None)
    if report:
        findings.report(stacklevel=3)
    return coco


def read_categories(path: Path, drop_root_category: bool = False) -> dict[int, str]:
    """Only the categories of an annotation file, ``{category id: name}``."""
    used: set[Any] = set()

    def note(records: Iterator[Any]) -> None:
        used.update(record.get("category_id") for record in records if isinstance(record, dict))

    data = read_json(path, {"annotations": note} if drop_root_category else {}, _UNUSED)
    _require(data, path, ("categories",))
    return check_categories(data["categories"], Fields(path, Findings()), used or None, drop_root_category)


# LVIS and others have more; segmentations of whole images among them
_UNUSED = frozenset({"info", "licenses", "annotations", "images", "videos"})


def _require(data: dict[str, Any], path: Path, keys: Sequence[str]) -> None:
    missing = [key for key in keys if not isinstance(data.get(key), list)]
    if missing:
        raise DataError(
            f"{path}: no list {some(map(repr, missing))} (found: {some(data) or 'nothing'}); COCO's instances format "
            "has 'images', 'annotations' and 'categories'."
        )


def _numbers(ids: list[Any]) -> NDArray[np.int64]:
    """Annotation ids as numbers; texts, gaps and numbers beyond 64 bits are counted on from the largest."""
    known = [number if type(number) is int and abs(number) < _LARGEST_ID else None for number in ids]
    highest = max((number for number in known if number is not None), default=0)
    free = itertools.count(max(0, highest) + 1)
    return np.array([next(free) if number is None else number for number in known], dtype=np.int64)
