"""Where data sets for segmentation keep their images, label maps and lists of samples."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dyvision.data.errors import DataError, describe, did_you_mean
from dyvision.data.files import IMAGE_EXTENSIONS, list_folders, list_images, read_text
from dyvision.data.findings import Findings
from dyvision.data.label_colors import VOC_COLORS
from dyvision.data.split_files import leaves, read_split_file
from dyvision.text import some


@dataclass(frozen=True)
class Layout:
    """A layout of folders; ``{split}`` in a name stands for the split, at the end of a folder if it is not in it.

    Args:
        images: Folder of the images below the root.
        labels: Folder of the label maps below the root.
        image_suffix: End of the images' names before the extension, which may be any unless it is given here.
        label_suffix: What stands in its place in the label maps' names.
        splits: Folders of splits that have another name here.
        split_file: Text file with the names of a split; None takes all that lies in the folders.
        others: Where to look if ``images`` or ``labels`` has no folder of the split: pairs of both.
    """

    images: str
    labels: str
    image_suffix: str = ""
    label_suffix: str = ""
    splits: dict[str, str] = field(default_factory=dict)
    split_file: str | None = None
    others: tuple[tuple[str, str], ...] = ()


LAYOUTS = {
    "cityscapes": Layout("leftImg8bit", "gtFine", "_leftImg8bit", "_gtFine_labelIds"),
    "mapillary": Layout(
        "{split}/images",
        "{split}/v1.2/labels",
        splits={"train": "training", "val": "validation", "test": "testing"},
        others=(("{split}/images", "{split}/v2.0/labels"), ("{split}/images", "{split}/labels")),
    ),
    "voc": Layout("JPEGImages", "SegmentationClass", split_file="ImageSets/Segmentation/{split}.txt"),
    "folders": Layout(
        "images", "masks", others=(("{split}/images", "{split}/masks"), ("images/{whole}", "masks/{whole}"))
    ),
    "roboflow": Layout("{split}", "{split}", label_suffix="_mask", splits={"val": "valid"}),
}


class PairFinder:
    """Finds the images of a split and their label maps.

    Args:
        root: Folder of the data set.
        layout: Its layout.
    """

    def __init__(self, root: Path, layout: Layout) -> None:
        self.root, self.layout = root, layout

    def folders(self, split: str) -> tuple[Path, Path]:
        """Folders of the images and the label maps of a split."""
        layout = self.layout
        candidates = [(layout.images, layout.labels), *layout.others]
        found = [(self._folder(images, split), self._folder(labels, split)) for images, labels in candidates]
        whole = [pair for pair in found if pair[0].is_dir() and pair[1].is_dir()]
        return next((pair for pair in [*whole, *found] if pair[0].is_dir()), found[0])

    def _folder(self, template: str, split: str) -> Path:
        split = self.layout.splits.get(split, split)
        if "{whole}" in template:
            return self.root / template.replace("/{whole}", "")
        if "{split}" in template:
            return self.root / template.replace("{split}", split)
        return self.root / template if self.layout.split_file is not None else self.root / template / split

    def describe(self) -> str:
        """The layout in words, for messages."""

        def name(template: str, suffix: str, extension: str) -> str:
            below = template if "{split}" in template or self.layout.split_file else f"{template}/{{split}}"
            city = "<city>/" if self.layout == LAYOUTS["cityscapes"] else ""
            file = f"{below}/{city}<name>{suffix}".replace("{split}", "<split>")
            return file if file.lower().endswith(IMAGE_EXTENSIONS) else file + extension

        image = name(self.layout.images, self.layout.image_suffix, ".png or .jpg")
        label = name(self.layout.labels, self.layout.label_suffix, ".png")
        return f"{image} and {label}" + (" (Cityscapes' layout)" if self.layout == LAYOUTS["cityscapes"] else "")

    def images(self, split: str, findings: Findings | None = None) -> tuple[Path, list[str]]:
        """Folder of a split's images and their names in it, of those with the right suffix.

        Raises:
            DataError: If there is no such folder, or no image in it.
        """
        folder, labels = self.folders(split)
        if not folder.is_dir():
            relative = folder.relative_to(self.root) if folder.is_relative_to(self.root) else folder
            parent = next(parent for parent in folder.parents if parent.is_dir() or parent == parent.parent)
            near = parent != self.root or "{split}" in self.layout.images
            hint = did_you_mean(relative.name, list_folders(parent)) if near else f" {describe(parent)}."
            raise DataError(
                f"{self.root}: no folder {relative}; expected {self.describe()}; the folders are the arguments layout, "
                f"image_dir, label_dir and *_split.{hint}"
            )
        files = list_images(folder, findings)
        images = [name for name in files if cut(name, self.layout.image_suffix) is not None]
        if folder == labels and self.layout.label_suffix:  # label maps lie between the images
            images = [name for name in images if cut(name, self.layout.label_suffix) is None]
        if not images:
            found = f"there are files like {some(files, 2)}" if files else describe(folder)
            raise DataError(
                f"{folder}: no image whose name ends in image_suffix={self.layout.image_suffix!r} ({found}); expected "
                f"{self.describe()}."
            )
        return folder, images

    def pairs(self, split: str, findings: Findings | None = None) -> list[tuple[str, str | None]]:
        """Image and label map of every sample of a split; None for a label map that is not there.

        Raises:
            DataError: If there is no image, or a list names a file that is not there.
        """
        folder, images = self.images(split, findings)
        labels: dict[str, str] = {}
        label_folder = self.folders(split)[1]
        for name in list_images(label_folder, findings) if label_folder.is_dir() else []:
            stem = cut(name, self.layout.label_suffix)
            if stem is not None and not (label_folder == folder and not self.layout.label_suffix):  # not itself
                labels[stem] = str(label_folder / name)
        by_stem = {cut(name, self.layout.image_suffix) or "": str(folder / name) for name in images}
        if self.layout.split_file is None:
            return [(path, labels.get(stem)) for stem, path in by_stem.items()]
        source = self.root / self.layout.split_file.replace("{split}", self.layout.splits.get(split, split))
        return [
            self._listed(line, by_stem, labels, f"{source}: line {number}") for number, line in read_split_file(source)
        ]

    def _listed(self, line: str, images: dict[str, str], labels: dict[str, str], source: str) -> tuple[str, str | None]:
        stem = line if line in images else cut(line, self.layout.image_suffix) or line
        if stem in images:
            return images[stem], labels.get(stem)
        image, *label = line.replace(",", " ").split()  # an image and its label map, as mmsegmentation lists them
        for name in (image, *label):
            if leaves(self.root / name, self.root):
                raise DataError(f"{source}: {name!r} leaves the root {self.root}; it has to be a path below the root.")
        if (self.root / image).is_file():
            folder = self.root / self.layout.images
            inside = (self.root / image).is_relative_to(folder)
            name = (self.root / image).relative_to(folder).as_posix() if inside else ""
            found = labels.get(cut(name, self.layout.image_suffix) or "")
            return str(self.root / image), str(self.root / label[0]) if label else found
        raise DataError(
            f"{source}: there is no image {line!r} in {self.layout.images}; expected a name without extension per "
            "line, or an image and its label map relative to root."
        )

    def label_file(self, split: str, image: str) -> Path:
        """Where the label map of an image should be, for messages."""
        folder, labels = self.folders(split)
        stem = cut(Path(image).relative_to(folder).as_posix(), self.layout.image_suffix)
        name = f"{stem}{self.layout.label_suffix}"
        return labels / (name if name.lower().endswith(IMAGE_EXTENSIONS) else f"{name}.png")


def cut(name: str, suffix: str) -> str | None:
    """The part of a path before a suffix (which may or may not include the extension), or None if it has another."""
    if not suffix.lower().endswith(IMAGE_EXTENSIONS):
        name = str(PurePosixPath(name).with_suffix(""))
    return name[: len(name) - len(suffix)] if name.endswith(suffix) else None


def detect_layout(root: Path) -> str | None:
    """Which of ``LAYOUTS`` a folder has, by what lies in it; None if none."""
    if (root / "leftImg8bit").is_dir():
        return "cityscapes"
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        return "voc"
    splits = LAYOUTS["mapillary"].splits.values()
    if any((root / split / version / "labels").is_dir() for split in splits for version in ("v1.2", "v2.0", ".")):
        return "mapillary"
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "folders"
    if any((folder.parent / "images").is_dir() for folder in root.glob("*/masks")):
        return "folders"
    return "roboflow" if any(root.glob("*/_classes.csv")) and any(root.glob("*/*_mask.png")) else None


def layout_table(name: str, root: Path) -> tuple[dict[int, str] | None, list[int]]:
    """The label table that comes with a layout, and the ids that are ignored.

    Mapillary's and Roboflow's lie in the data set (``config_v1.2.json``, ``config_v2.0.json`` or ``config.json``;
    ``_classes.csv``).

    Returns:
        ``{labelId: name}``, or None if the layout says nothing about classes.

    Raises:
        DataError: If the file cannot be read.
    """
    if name == "voc":
        return dict(enumerate(VOC_COLORS)), []
    if name == "mapillary":
        older = any(root.glob("*/v1.2/labels")) or not any(root.glob("*/v2.0/labels"))
        version = "config_v1.2.json" if older else "config_v2.0.json"
        for config in (version, "config.json"):  # without a version in the first release
            if (root / config).is_file():
                return _mapillary_table(root / config)
    if name == "roboflow":
        for file in sorted(root.glob("*/_classes.csv")):
            return _roboflow_table(file), []
    return None, []


def _mapillary_table(path: Path) -> tuple[dict[int, str], list[int]]:
    try:
        labels = json.loads(read_text(path))["labels"]
        names = [str(label["readable"]) for label in labels]
        return dict(enumerate(names)), [k for k, label in enumerate(labels) if not label.get("evaluate", True)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not Mapillary's list of labels ({error}); set label_table.") from error


def _roboflow_table(path: Path) -> dict[int, str]:
    rows = list(csv.reader(read_text(path).splitlines(), skipinitialspace=True))
    try:
        return {int(row[0]): row[1].strip() for row in rows[1:] if row}
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: expected lines 'Pixel Value, Class' ({error}); set label_table.") from error
