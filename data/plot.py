"""Looking at a data set: one sample, or a contact sheet of many, drawn from what the reader returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from dyvision.data.base import VisionDataModule, VisionDataset
from dyvision.data.cityscapes import CityscapesDataModule
from dyvision.data.coco import COCODataModule
from dyvision.data.errors import DataError, describe, did_you_mean, some
from dyvision.data.files import is_image, list_folders
from dyvision.data.imagefolder import ImageFolderDataModule
from dyvision.data.samplers import SampleKey, sample_seed
from dyvision.visualize import as_image, denormalize, draw_boxes, draw_label, draw_legend, fit, grid, overlay_mask, save

#: Formats that ``show`` knows.
FORMATS = ("imagefolder", "cityscapes", "coco")

_TILE = (320, 240)


def plot_sample(sample: dict[str, Any], dataset: VisionDataset, tile: tuple[int, int] = _TILE) -> Image.Image:
    """Draws a sample with its labels.

    Args:
        sample: As the dataset returns it.
        dataset: For the classes and the normalisation.
        tile: Width and height that the picture fills in one direction.
    """
    normalize = dataset.to_tensor
    mean, std = getattr(normalize, "mean", (0.0, 0.0, 0.0)), getattr(normalize, "std", (1.0, 1.0, 1.0))
    image = denormalize(sample["image"], mean, std)
    pixels = as_image(image if image.shape[2] == 3 else image.repeat(3, axis=2))
    names, colors = dataset.class_names, dataset.class_colors
    if "mask" in sample:
        # an evaluation sample has the stored label map, whatever became of the image
        height, width = sample["mask"].shape
        return fit(overlay_mask(pixels.resize((width, height)), sample["mask"], colors), *tile)
    shown = fit(pixels, *tile)
    if "label" in sample:
        return draw_label(shown, names[sample["label"]], colors[sample["label"]])
    if "target" in sample:
        target = sample["target"]
        classes = [label - 1 for label in target["labels"].tolist()]
        masks = None
        if "masks" in target:
            masks = [fit(as_image(_as_pixels(mask)), *tile).convert("L") for mask in target["masks"]]
            masks = [mask.point(lambda value: value > 127) for mask in masks]
        boxes = target["boxes"].numpy() * (shown.width / pixels.width)
        return draw_boxes(shown, boxes, [names[k] for k in classes], [colors[k] for k in classes], masks=masks)
    return shown


def _as_pixels(mask: Any) -> Image.Image:
    return Image.fromarray(mask.numpy() * 255).convert("RGB")


def contact_sheet(
    source: VisionDataModule | VisionDataset,
    path: str | Path,
    split: str = "val",
    count: int = 16,
    columns: int = 4,
    seed: int = 0,
) -> Path:
    """Draws samples spread evenly over a data set.

    Args:
        source: A dataset, or a data module.
        path: Image file to write.
        split: Which of a data module's datasets: ``train`` (augmented), ``val``, ``test`` or ``predict``.
        count: How many samples.
        columns: Samples in a row.
        seed: Of the random transforms.

    Returns:
        The file written.

    Raises:
        ValueError: If there is no such split, or a number is below one.
    """
    if count < 1 or columns < 1:
        raise ValueError(f"count={count}, columns={columns}: expected at least 1.")
    dataset = source if isinstance(source, VisionDataset) else _dataset(source, split)
    count = min(count, len(dataset))
    indices = [position * len(dataset) // count for position in range(count)]
    samples = [dataset[SampleKey(index, sample_seed(seed, 0, index))] for index in indices]
    tiles = [dataset.plot(sample) for sample in samples]
    footer = None
    if dataset.task == "segmentation" and dataset.class_names:
        width = min(columns, count) * (max(tile.width for tile in tiles) + 6)
        present = sorted({int(k) for sample in samples if "mask" in sample for k in sample["mask"].unique()})
        present = [k for k in present if k < len(dataset.class_names)]
        names = [dataset.class_names[k] for k in present]
        footer = draw_legend(names, [dataset.class_colors[k] for k in present], width)
    return save(grid(tiles, columns, footer=footer), path)


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
        if (root / "leftImg8bit").is_dir():
            return "cityscapes"
        if any((root / "annotations").glob("*.json")):
            return "coco"
        if _is_class_folders(root) or any(_is_class_folders(root / name) for name in list_folders(root)):
            return "imagefolder"
    raise DataError(
        f"{root}: {describe(root)}; expected one of: <split>/<class>/*.jpg (imagefolder), leftImg8bit/ and gtFine/ "
        "(cityscapes), annotations/instances_<split>.json (coco); or say which with format."
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

    Returns:
        The file written.

    Raises:
        DataError: If the data cannot be read; the message tells what was expected.
        ValueError: If the format is unknown.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}.{did_you_mean(format, FORMATS)}")
    kind = format or detect_format(path)
    module, split = _module(Path(path), kind, split, masks)
    try:
        dataset = module.build_dataset(split, train=augment)
    except DataError as error:
        if not (isinstance(module, COCODataModule) and module.masks and "set masks to false" in str(error)):
            raise
        module.masks = False
        dataset = module.build_dataset(split, train=augment)
    return contact_sheet(dataset, output, count=count, columns=columns, seed=seed)


def _module(root: Path, kind: str, split: str | None, masks: bool) -> tuple[VisionDataModule, str]:
    if kind == "cityscapes":
        folder = root / "leftImg8bit"
        module: VisionDataModule = CityscapesDataModule(str(root), scale_range=(1.0, 1.0), crop_size=(256, 512))
        return module, _choose(split, list_folders(folder) if folder.is_dir() else [])
    if kind == "coco":
        files = sorted((root / "annotations").glob("instances_*.json"))
        names = [file.stem.removeprefix("instances_") for file in files]
        return COCODataModule(str(root), masks=masks), _choose(split, names, "train2017")
    if root.is_dir() and split is None and _is_class_folders(root):
        root, split = root.absolute().parent, root.absolute().name
    names = list_folders(root) if root.is_dir() else []
    split = _choose(split, names)
    train = split if "train" not in names else "train"
    return ImageFolderDataModule(str(root), train_split=train), split


def _choose(split: str | None, names: list[str], default: str = "train") -> str:
    if split is None:
        return next((name for name in names if name.startswith("train")), names[0] if names else default)
    if split in names or not names:
        return split
    starting = [name for name in names if name.startswith(split)]  # "train" for COCO's train2017
    if len(starting) != 1:
        raise DataError(f"there is no split {split!r} (found: {some(names)}).{did_you_mean(split, names)}")
    return starting[0]
