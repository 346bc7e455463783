"""The sample data: scenes drawn once, written in the three formats that the readers read.

``dyvision data sample DIR`` calls ``write_sample_data``; every quick run trains on it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api

from dyvision.data.sample.scenes import OBJECT_CLASSES, STUFF_CLASSES, Scene, SceneObject, draw_scene
from dyvision.saving import replacing, write_text

#: Classes of the classification and detection samples.
SAMPLE_CLASSES = OBJECT_CLASSES
#: Names for ``CityscapesDataModule(classes=...)``: all that the sample label maps hold, poles and clutter left out.
SAMPLE_LABELS = (*STUFF_CLASSES, *OBJECT_CLASSES)

# official COCO ids: with gaps
_COCO_IDS = {"person": 1, "bicycle": 2, "car": 3, "bus": 6, "traffic light": 10}
_CITIES = ("ashford", "brookside", "cedarville")
# the stream of scenes that only yield crops starts behind all others
_CROP_STREAM = 1_000_000
_MIN_AREA = 40
_MIN_VISIBLE = 0.3
_QUALITY = 82


def write_sample_data(
    root: str | Path,
    train_scenes: int = 400,
    val_scenes: int = 100,
    train_crops: int = 1500,
    val_crops: int = 210,
    size: int = 128,
    crop_size: int = 64,
    seed: int = 0,
) -> Path:
    """Draws scenes and writes them as ``imagenet/``, ``cityscapes/`` and ``coco/`` below a folder.

    The same arguments give the same files, byte for byte on one platform. Every split has a scene without objects (from
    two scenes on); some scenes have a crowd. Existing files of the same names are overwritten.

    Args:
        root: Folder to write to.
        train_scenes: Scenes for training.
        val_scenes: Scenes for validation.
        train_crops: Classification images for training, equally many per class (rounded up).
        val_crops: The same for validation.
        size: Height and width of a scene in pixels.
        crop_size: Height and width of a classification image.
        seed: Not negative.

    Returns:
        ``root``.

    Raises:
        ValueError: If a number is out of range.
    """
    for name, value, least in (
        ("train_scenes", train_scenes, 1),
        ("val_scenes", val_scenes, 1),
        ("train_crops", train_crops, 1),
        ("val_crops", val_crops, 1),
        ("size", size, 32),
        ("crop_size", crop_size, 16),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: expected at least {least}.")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # the scenes are small: handing them to threads takes longer than drawing them
    try:
        _write(Path(root), ((train_scenes, train_crops), (val_scenes, val_crops)), size, crop_size, seed)
    finally:
        cv2.setNumThreads(threads)
    return Path(root)


def _write(root: Path, counts: tuple[tuple[int, int], ...], size: int, crop_size: int, seed: int) -> None:
    first = 0  # image ids differ between the splits
    for stream, (split, (scenes, crops)) in enumerate(zip(("train", "val"), counts, strict=True)):
        coco = _CocoWriter(root / "coco", f"{split}2017")
        cropper = _Cropper(root / "imagenet" / split, -(-crops // len(OBJECT_CLASSES)), crop_size, (seed, stream))
        for number in range(scenes):
            classes = () if number == 1 else OBJECT_CLASSES
            scene = draw_scene(np.random.default_rng((seed, stream, number)), size, classes)
            _write_cityscapes(root / "cityscapes", split, number, scene)
            coco.add(scene, first + number)
            cropper.add(scene)
        coco.close()
        number = _CROP_STREAM
        while missing := cropper.missing():
            cropper.add(draw_scene(np.random.default_rng((seed, stream, number)), size, missing))
            number += 1
        first += scenes
    words = [f"{folder_name(name)}\t{name}" for name in sorted(OBJECT_CLASSES, key=folder_name)]
    write_text(root / "imagenet" / "words.txt", "\n".join(words) + "\n")


def folder_name(name: str) -> str:
    """A class name as the name of a folder."""
    return name.replace(" ", "_")


def _save(image: NDArray[Any], path: Path) -> None:
    options: dict[str, Any] = {"quality": _QUALITY} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    with replacing(path) as part:
        Image.fromarray(image).save(part, **options)


def _write_cityscapes(root: Path, split: str, number: int, scene: Scene) -> None:
    city = _CITIES[number % len(_CITIES)]
    stem = f"{city}_{number:06d}_000019"
    _save(scene.image, root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.jpg")
    _save(scene.labels, root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png")


class _CocoWriter:
    """Collects one split's annotations."""

    def __init__(self, root: Path, split: str) -> None:
        self._root, self._split = root, split
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, scene: Scene, number: int) -> None:
        """Writes the image and notes its objects."""
        image_id = 1000 + 7 * number
        name = f"{image_id:012d}.jpg"
        _save(scene.image, self._root / self._split / name)
        height, width = scene.labels.shape
        self._images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for item in scene.objects:
            mask = scene.instances == item.number
            if item.visible < _MIN_VISIBLE or np.count_nonzero(mask) < _MIN_AREA:
                continue
            ys, xs = np.nonzero(mask)
            left, top, right, bottom = (int(value) for value in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
            outline = _run_lengths(mask) if item.crowd else _polygons(scene.fine_instances == item.number)
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image_id,
                    "category_id": _COCO_IDS[item.name],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "iscrowd": int(item.crowd),
                    "segmentation": outline,
                }
            )

    def close(self) -> None:
        """Writes the annotation file."""
        categories = [{"id": _COCO_IDS[name], "name": name, "supercategory": "street"} for name in OBJECT_CLASSES]
        content = {
            "info": {"description": "dyvision sample scenes", "version": "1"},
            "licenses": [],
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }
        path = self._root / "annotations" / f"instances_{self._split}.json"
        write_text(path, json.dumps(content))


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Column by column, zeros first: COCO's uncompressed run lengths."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff([0, *changes, mask.size]).tolist()}


def _polygons(fine: NDArray[np.bool_]) -> Any:
    """Outlines at twice the resolution, in pixels of the scene; compressed run lengths where there is no outline."""
    outlines, _ = cv2.findContours(fine.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1)
    outlines = [(outline[:, 0].astype(float) + 0.5) / 2 for outline in outlines if len(outline) > 3]
    polygons = [outline.ravel().round(2).tolist() for outline in outlines]
    if polygons:
        return polygons
    coded = mask_api.encode(np.asfortranarray(fine[::2, ::2].astype(np.uint8)))
    return {"size": [int(side) for side in coded["size"]], "counts": coded["counts"].decode("ascii")}


class _Cropper:
    """Cuts classification images out of scenes until every class has enough."""

    def __init__(self, root: Path, per_class: int, size: int, seed: tuple[int, int]) -> None:
        self._root, self._per_class, self._size = root, per_class, size
        self._counts = dict.fromkeys(OBJECT_CLASSES, 0)
        self._rng = np.random.default_rng((*seed, 2))

    def missing(self) -> list[str]:
        """Classes that still need images."""
        return [name for name, count in self._counts.items() if count < self._per_class]

    def add(self, scene: Scene) -> None:
        """Cuts out what is large enough, mostly visible and wholly inside."""
        for item in scene.objects:
            if not item.crowd and item.visible > 0.7 and self._counts[item.name] < self._per_class:
                self._cut(scene, item)

    def _cut(self, scene: Scene, item: SceneObject) -> None:
        ys, xs = np.nonzero(scene.fine_instances == item.number)
        limit = scene.fine_image.shape[0] - 1
        if min(xs.min(), ys.min()) == 0 or max(xs.max(), ys.max()) == limit:
            return
        length = max(int(np.ptp(xs)), int(np.ptp(ys))) + 1
        if length < 0.14 * limit:
            return
        side = length * self._rng.uniform(1.06, 1.3)
        center = np.array([xs.min() + xs.max(), ys.min() + ys.max()]) / 2 + self._rng.uniform(-0.05, 0.05, 2) * length
        corner = center - side / 2
        scale = self._size / side
        matrix = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
        flags = cv2.INTER_LINEAR if scale > 0.6 else cv2.INTER_AREA
        image = cv2.warpAffine(
            scene.fine_image, matrix, (self._size, self._size), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )
        number = self._counts[item.name]
        extension = "png" if number % 10 == 0 else "jpg"
        folder = folder_name(item.name)
        _save(image, self._root / folder / f"{folder}_{number:05d}.{extension}")
        self._counts[item.name] = number + 1
