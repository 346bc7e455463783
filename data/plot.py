"""Looking at a data set: one sample, or a contact sheet of many, drawn from what the reader returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyvision.data.base import VisionDataModule
from dyvision.data.cityscapes import CityscapesDataModule
from dyvision.data.coco import COCODataModule
from dyvision.data.datasets import VisionDataset
from dyvision.data.errors import DataError, describe, did_you_mean, looked_up
from dyvision.data.files import is_image, list_folders
from dyvision.data.imagefolder import ImageFolderDataModule
from dyvision.data.layouts import detect_layout
from dyvision.data.outputs import SHEET
from dyvision.data.samplers import SampleKey, sample_seed
from dyvision.text import some
from dyvision.visualize import grid, legend_of, save

#: Data module of each format.
MODULES: dict[str, type[VisionDataModule]] = {
    "imagefolder": ImageFolderDataModule,
    "cityscapes": CityscapesDataModule,
    "coco": COCODataModule,
}
#: Formats that ``show`` knows.
FORMATS = tuple(MODULES)

_ROBOFLOW = "_annotations.coco.json"


def contact_sheet(
    source: VisionDataModule | VisionDataset,
    path: str | Path,
    split: str = "val",
    count: int = 16,
    columns: int = 4,
    seed: int = 0,
    broken: list[str] | None = None,
) -> Path:
    """Draws samples spread evenly over a data set.

    Args:
        source: A dataset, or a data module.
        path: Image file to write.
        split: Which of a data module's datasets: ``train`` (augmented), ``val``, ``test`` or ``predict``.
        count: How many samples.
        columns: Samples in a row.
        seed: Of the random transforms.
        broken: Samples that cannot be read are left out, and their messages appended here; if None, the first is an
            error.

    Returns:
        The file written.

    Raises:
        DataError: If a sample cannot be read, or none of them.
        ValueError: If there is no such split, or a number is below one.
    """
    if count < 1 or columns < 1:
        raise ValueError(f"count={count}, columns={columns}: expected at least 1.")
    dataset = source if isinstance(source, VisionDataset) else _dataset(source, split)
    count = min(count, len(dataset))
    indices = [position * len(dataset) // count for position in range(count)]
    samples = []
    for index in indices:
        try:
            samples.append(dataset[SampleKey(index, sample_seed(seed, 0, index))])
        except DataError as error:
            if broken is None:
                raise
            broken.append(str(error))
    if not samples:
        raise DataError(f"none of {len(indices)} samples can be read: {broken[0] if broken else 'there is none'}")
    tiles = [dataset.plot(sample) for sample in samples]
    footer = None
    if dataset.task == "segmentation" and dataset.class_names:
        width = min(columns, count) * (max(tile.width for tile in tiles) + 6)
        maps = [sample["mask"] for sample in samples if "mask" in sample]
        footer = legend_of(maps, dataset.class_names, dataset.class_colors, width)
    return save(grid(tiles, columns, footer=footer), path, software=SHEET)


def _dataset(source: VisionDataModule, split: str) -> VisionDataset:
    stages = {"train": "fit", "val": "validate", "test": "test", "predict": "predict"}
    if split not in stages:
        raise ValueError(f"unknown split {split!r}.{did_you_mean(split, stages)}")
    if split not in source.datasets:
        source.setup(stages[split])
    return source.datasets[split]


def detect_format(path: str | Path) -> str:
    """Which of ``FORMATS`` a folder has.

    Raises:
        DataError: If none; the message tells the layouts.
    """
    root = Path(path)
    if root.is_dir():
        if any((root / "annotations").glob("*.json")) or any(root.glob(f"*/{_ROBOFLOW}")):
            return "coco"
        if detect_layout(root) is not None:
            return "cityscapes"
        if _is_class_folders(root) or any(_is_class_folders(root / name) for name in list_folders(root)):
            return "imagefolder"
    raise DataError(
        f"{root}{looked_up(root)}: {describe(root)}; expected one of: <split>/<class>/*.jpg (imagefolder), "
        "leftImg8bit/ and gtFine/ or images/ and masks/ (cityscapes), annotations/instances_<split>.json or "
        "<split>/_annotations.coco.json (coco); or say which with format."
    )


def _is_class_folders(folder: Path) -> bool:
    return any(is_image(item.name) for name in list_folders(folder) for item in (folder / name).iterdir())


def show(
    path: str | Path,
    format: str | None = None,
    split: str | None = None,
    output: str | Path = "sheet.png",
    count: int = 16,
    columns: int = 4,
    augment: bool = False,
    masks: bool = True,
    seed: int = 0,
    module: VisionDataModule | None = None,
    broken: list[str] | None = None,
) -> Path:
    """Draws a contact sheet of a data set on disk.

    Args:
        path: Folder of the data set (for ``imagefolder`` also that of one split).
        format: One of ``FORMATS``; if None, by what lies in the folder.
        split: Name of the split; if None, training where there is one.
        output: Image file to write.
        count: How many samples.
        columns: Samples in a row.
        augment: Show what training would see: the format's default training transforms.
        masks: For COCO, draw instance masks where there are some.
        seed: Of the random transforms.
        module: The data module that reads it, with options of one's own, in place of ``path`` and ``format``.
        broken: As for :func:`contact_sheet`.

    Returns:
        The file written.

    Raises:
        DataError: If the data cannot be read; the message tells what was expected.
        ValueError: If the format is unknown.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}.{did_you_mean(format, FORMATS)}")
    if module is not None:
        dataset = _of_module(module, split or "train", augment)
        return contact_sheet(dataset, output, count=count, columns=columns, seed=seed, broken=broken)
    kind = format or detect_format(path)
    module, split = _module(Path(path), kind, split, masks)
    try:
        dataset = module.build_dataset(split, train=augment)
    except DataError as error:
        if not (isinstance(module, COCODataModule) and module.masks and "set masks to false" in str(error)):
            raise
        module.masks = False
        dataset = module.build_dataset(split, train=augment)
    return contact_sheet(dataset, output, count=count, columns=columns, seed=seed, broken=broken)


def layout_options(path: str | Path, format: str) -> dict[str, Any]:
    """Options of the data module that follow from what lies in the folder of a data set.

    Args:
        path: Folder of the data set.
        format: One of ``FORMATS``.

    Returns:
        Arguments of the format's data module.
    """
    root = Path(path)
    if format == "cityscapes":
        layout = detect_layout(root)
        return {} if layout in (None, "cityscapes") else {"layout": layout}
    if format == "coco":
        if any(root.glob(f"*/{_ROBOFLOW}")):
            return {"layout": "roboflow"}
        files = sorted((root / "annotations").glob("instances_*.json"))
        names = [file.stem.removeprefix("instances_") for file in files]
        return {"train_split": _choose(None, names, "train2017"), "val_split": _evaluated(names, "val2017")}
    if root.is_dir() and _is_class_folders(root):
        return {"train_split": ".", "val_split": "."}
    names = list_folders(root) if root.is_dir() else []
    return {"train_split": _choose(None, names), "val_split": _evaluated(names)}


def _evaluated(names: list[str], default: str = "val") -> str:
    return next((name for name in names if name.startswith("val")), default)


def _module(root: Path, kind: str, split: str | None, masks: bool) -> tuple[VisionDataModule, str]:
    if kind == "imagefolder" and root.is_dir() and split is None and _is_class_folders(root):
        root, split = root.absolute().parent, root.absolute().name
    options = layout_options(root, kind)
    if kind == "cityscapes":
        folder = root / "leftImg8bit"
        options |= {"scale_range": (1.0, 1.0), "crop_size": (256, 512)}
        names = list_folders(folder) if folder.is_dir() else []
        return CityscapesDataModule(str(root), **options), _choose(split, names)
    if kind == "coco":
        names = [file.parent.name for file in root.glob(f"*/{_ROBOFLOW}")]
        files = sorted((root / "annotations").glob("instances_*.json"))
        names = names or [file.stem.removeprefix("instances_") for file in files]
        return COCODataModule(str(root), masks=masks, **options), _choose(split, names, "train2017")
    names = list_folders(root) if root.is_dir() else []
    split = _choose(split, names)
    return ImageFolderDataModule(str(root), train_split=split if "train" not in names else "train"), split


def _of_module(module: VisionDataModule, split: str, augment: bool) -> VisionDataset:
    """A split of a data module: ``train``, ``val``, ``test``, or its own name."""
    names = {"train": module.train_split, "val": module.val_split, "test": module.test_split or module.val_split}
    if module.val_fraction is not None and split == "val":
        return module.build_validation_dataset()
    return module.build_dataset(names.get(split, split), train=augment)


def _choose(split: str | None, names: list[str], default: str = "train") -> str:
    if split is None:
        return next((name for name in names if name.startswith("train")), names[0] if names else default)
    if split in names or not names:
        return split
    starting = [name for name in names if name.startswith(split)]  # "train" for COCO's train2017
    if len(starting) != 1:
        raise DataError(f"there is no split {split!r} (found: {some(names)}).{did_you_mean(split, names)}")
    return starting[0]
