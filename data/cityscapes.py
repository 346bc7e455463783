"""Semantic segmentation in Cityscapes' layout: ``leftImg8bit/<split>/<city>/*`` beside ``gtFine/<split>/<city>/*``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyvision.arguments import check_numbers
from dyvision.data.base import VisionDataModule
from dyvision.data.cityscapes_dataset import CityscapesDataset
from dyvision.data.cityscapes_labels import LabelTable, train_id_table
from dyvision.data.datasets import PredictDataset, VisionDataset
from dyvision.data.errors import did_you_mean
from dyvision.data.label_checks import look_at_labels
from dyvision.data.layouts import LAYOUTS, Layout, PairFinder, layout_table
from dyvision.data.pipeline import LARGEST_SIDE, Normalize, Pipeline
from dyvision.data.transforms import TransformSpec, plain_spec


class CityscapesDataModule(VisionDataModule):
    """Semantic segmentation in Cityscapes' layout, or another one.

    Label ids become the 19 train ids by Cityscapes' official table; ``classes`` keeps only some of its names, and
    ``label_table`` brings another data set's ids. With a ``label_suffix`` that ends in ``TrainIds`` the ids are read as
    train ids. In a test split without label maps all pixels are ignored. Batches: see ``docs/architecture.md``;
    evaluation images of different sizes are padded.

    Args:
        layout: Sets the folders, suffixes and lists below where these are None: ``"cityscapes"``, ``"mapillary"``
            (Vistas v1.2), ``"voc"``, ``"folders"`` (``images`` and ``masks``, with or without a folder per split below
            or above) or ``"roboflow"``.
        crop_size: Height and width of the default training pipeline's crops.
        image_size: Height and width every image is resized to before anything else; None keeps the stored size.
        scale_range: The default training pipeline scales by a factor from this range before it crops.
        image_dir: Folder of the images below ``root``; a folder of the split in it, or where ``{split}`` stands.
        label_dir: The same for the label maps.
        image_suffix: End of the images' names before the extension, which may be any unless it is given here.
        label_suffix: What stands in its place in the label maps' names.
        split_file: Text file with the samples of a split, ``{split}`` in its name: a name without extension per line,
            or an image and its label map, relative to ``root``. ``image_dir`` and ``label_dir`` then hold all splits.
        classes: Names of labels to train on, in this order; the others are ignored.
        label_table: ``{labelId: name}`` for other data sets than Cityscapes; equal names are one class.
        label_colors: ``{name: [r, g, b]}`` for coloured label maps, or ``"voc"`` or ``"cityscapes"`` for theirs.
        ignore_ids: Label ids that occur beside the table and are ignored; 255 and -1 always are.
        train_transform: Training pipeline, a list of albumentations transforms (see ``dyvision.data.transforms``); if
            None: random scale, random crop, horizontal flip and colour jitter.
        eval_transform: Evaluation pipeline; if None, the whole image. Metrics are those of the stored label map as long
            as images are only resized; with crops, pads or flips, those of what the network sees.
        mean: Channel means subtracted, in 0..1; None takes those that the backbone's pretrained weights expect, else
            ImageNet's.
        std: Channel deviations divided by, in 0..1; None as for ``mean``.

    Raises:
        ValueError: If an argument is out of range, a class name unknown or a pipeline wrong.
    """

    task = "segmentation"
    from_backbone = ("mean", "std")
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self,
        *args: Any,
        crop_size: tuple[int, int] = (512, 1024),
        image_size: tuple[int, int] | None = None,
        scale_range: tuple[float, float] = (0.5, 2.0),
        layout: str = "cityscapes",
        image_dir: str | None = None,
        label_dir: str | None = None,
        image_suffix: str | None = None,
        label_suffix: str | None = None,
        split_file: str | None = None,
        classes: list[str] | None = None,
        label_table: dict[int, str] | None = None,
        label_colors: dict[str, list[int]] | str | None = None,
        ignore_ids: list[int] | None = None,
        train_transform: list[TransformSpec] | None = None,
        eval_transform: list[TransformSpec] | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        train_transform, eval_transform = plain_spec(train_transform), plain_spec(eval_transform)
        super().__init__(*args, **kwargs)
        sides: dict[str, Any] = {"length": 2, "minimum": 1, "maximum": LARGEST_SIDE, "integer": True}
        check_numbers("crop_size", crop_size, **sides)
        check_numbers("image_size", image_size, **sides, allow_none=True)
        check_numbers("scale_range", scale_range, length=2, above=0, maximum=100)
        if scale_range[0] > scale_range[1]:
            raise ValueError(f"scale_range={list(scale_range)}: expected the smaller number first.")
        self._crop = (crop_size, scale_range)
        self._resize: list[TransformSpec] = []
        if image_size is not None:
            self._resize = [{"Resize": {"height": image_size[0], "width": image_size[1]}}]
        self._train_transform, self._eval_transform = train_transform, eval_transform
        self.set_preprocessing({"mean": mean, "std": std})
        self._finder = PairFinder(
            self.root, _layout(layout, image_dir, label_dir, image_suffix, label_suffix, split_file)
        )
        ignored = list(ignore_ids or ())
        if label_table is None and label_colors is None:
            label_table, more = self._own_table(layout)
            ignored += more
            # a checkpoint has to know the classes without the data set
            self.hparams.update(label_table=label_table, ignore_ids=ignored or ignore_ids)
        self._table = LabelTable(classes, label_table, ignored, label_colors)
        self.num_classes = len(self._table.names)
        self.class_names, self.class_colors = self._table.names, self._table.colors
        self.class_ids = self._table.ids

    def build_pipelines(self) -> None:
        """The transforms of training and evaluation."""
        Normalize(self.mean, self.std, self.channels)
        train = _default_train(*self._crop, self.mean) if self._train_transform is None else self._train_transform
        self._train_pipeline = Pipeline([*self._resize, *train], self.task, "train_transform")
        self._eval_pipeline = Pipeline([*self._resize, *(self._eval_transform or [])], self.task, "eval_transform")

    def _own_table(self, layout: str) -> tuple[dict[int, str] | None, list[int]]:
        if self._finder.layout.label_suffix.partition(".")[0].lower().endswith("trainids"):
            return train_id_table(), []
        table, ignored = layout_table(layout, self.root)
        if table is None and layout != "cityscapes":
            raise ValueError(
                f"layout={layout!r} does not say what the label ids mean; set label_table, such as "
                "{0: background, 1: crack}, or label_colors."
            )
        if table is not None and ignored:
            table = {label_id: name for label_id, name in table.items() if label_id not in ignored}
        return table, ignored

    def build_dataset(self, split: str, train: bool) -> CityscapesDataset:
        """The images of a split with their label maps."""
        pairs = self._pairs(split, may_lack_labels=not train and split not in (self.train_split, self.val_split))
        pipeline = self._train_pipeline if train else self._eval_pipeline
        stored = not train and pipeline.only_resizes
        options = self._dataset_options()
        self.findings.report()
        return CityscapesDataset(pairs, self._table, pipeline, self._to_tensor(), stored, options["reader"])

    def build_predict_dataset(self) -> PredictDataset:
        """The images of ``predict_root``, or those of the validation split."""
        files = self.predict_files()
        if self.predict_root is None and self.val_fraction is None:
            folder, names = self._images(self.val_split)
            files = [folder / name for name in names]
            if self._finder.layout.split_file is not None:
                files = [Path(path) for path, _ in self._finder.pairs(self.val_split, self.findings)]
        elif self.predict_root is None:
            files = [Path(path) for path in self.build_validation_dataset().paths()]
        return self.images_to_predict(files)

    def images_to_predict(self, *args: Any, **kwargs: Any) -> PredictDataset:
        """As in the base class; the transforms may only resize.

        Raises:
            ValueError: If they do more.
        """
        self._eval_pipeline.require_only_resizes("predictions are label maps in the size of the stored image")
        return super().images_to_predict(*args, **kwargs)

    def check_labels(self, dataset: VisionDataset) -> None:
        """Looks at label maps of the training split: whether there is anything to learn, and what the ids mean."""
        if isinstance(dataset, CityscapesDataset) and (paths := dataset.label_paths()):
            look_at_labels(paths, self._table, self.reader, self.findings)

    def _to_tensor(self) -> Normalize:
        return Normalize(self.mean, self.std, self.channels)

    def _images(self, split: str) -> tuple[Path, list[str]]:
        self.require_root(self._finder.describe())
        return self._finder.images(split, self.findings)

    def _pairs(self, split: str, may_lack_labels: bool) -> list[tuple[str, str | None]]:
        self.require_root(self._finder.describe())
        pairs = self._finder.pairs(split, self.findings)
        missing = [image for image, label in pairs if label is None]
        if not missing:
            return pairs
        # the message names the root already
        image, expected = (
            os.path.relpath(path, self.root) for path in (missing[0], self._finder.label_file(split, missing[0]))
        )
        if may_lack_labels:
            self.findings.warned(
                self.root,
                f"{len(missing)} of {len(pairs)} images of the split {split!r} have no label map (such as {expected})",
                "they do not count in the metrics",
            )
            return pairs
        self.findings.refused_because(
            self.root,
            f"{len(missing)} of {len(pairs)} images of the split {split!r} have no label map; {image} needs {expected}",
            "add it, remove the image, or set layout, label_dir ('{split}' in it stands for the split), label_suffix "
            "or split_file",
        )
        return [(image, label) for image, label in pairs if label is not None]


def _layout(
    name: str,
    image_dir: str | None,
    label_dir: str | None,
    image_suffix: str | None,
    label_suffix: str | None,
    split_file: str | None,
) -> Layout:
    if name not in LAYOUTS:
        raise ValueError(f"unknown layout {name!r}.{did_you_mean(name, LAYOUTS)}")
    given: dict[str, Any] = {
        "images": image_dir, "labels": label_dir, "image_suffix": image_suffix, "label_suffix": label_suffix,
        "split_file": split_file, "others": None if image_dir is None and label_dir is None else (),
    }  # fmt: skip
    return replace(LAYOUTS[name], **{key: value for key, value in given.items() if value is not None})


def _default_train(
    crop_size: tuple[int, int], scale_range: tuple[float, float], mean: tuple[float, ...]
) -> list[TransformSpec]:
    height, width = crop_size
    fill = [255 * value for value in (mean if len(mean) == 3 else mean * 3)]
    limit = [scale_range[0] - 1, scale_range[1] - 1]  # albumentations counts from 1
    return [
        {"RandomScale": {"scale_limit": limit, "p": 1.0}},
        {"PadIfNeeded": {"min_height": height, "min_width": width, "fill": fill}},
        {"RandomCrop": {"height": height, "width": width}},
        "HorizontalFlip",
        {"ColorJitter": {"brightness": 0.25, "contrast": 0.25, "saturation": 0.25, "hue": 0.05, "p": 0.8}},
    ]
