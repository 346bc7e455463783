"""Object detection and instance segmentation in COCO's format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from dyvision.arguments import check_number
from dyvision.data.base import PredictDataset, VisionDataModule
from dyvision.data.coco_dataset import CocoDataset
from dyvision.data.coco_json import CocoFile, read_categories, read_coco
from dyvision.data.datasets import ToTensor, VisionDataset
from dyvision.data.errors import DataError
from dyvision.data.pipeline import LARGEST_SIDE, Pipeline, to_tensor
from dyvision.data.transforms import TransformSpec, plain_spec
from dyvision.text import some
from dyvision.visualize import palette


class CocoLayout(NamedTuple):
    """Where a data set keeps its images and annotations; ``{split}`` stands for the split.

    Attributes:
        images: Folder of the images below the root.
        annotations: JSON file below the root.
        train: Name of the training split.
        val: Name of the validation split.
    """

    images: str
    annotations: str
    train: str
    val: str

    def describe(self) -> str:
        """The layout in words, for messages."""
        names = (f"{self.images}/*.jpg", self.annotations)
        return " and ".join("<root>/" + name.replace("{split}", self.train).removeprefix("./") for name in names)


COCO_LAYOUTS = {
    "coco": CocoLayout("{split}", "annotations/instances_{split}.json", "train2017", "val2017"),
    "roboflow": CocoLayout("{split}", "{split}/_annotations.coco.json", "train", "valid"),
    "lvis": CocoLayout(".", "annotations/lvis_v1_{split}.json", "train", "val"),
}


class COCODataModule(VisionDataModule):
    """Detection and instance segmentation in COCO's format.

    Category ids, with or without gaps, become labels 1..n in the order of the ids. Batches: see
    ``docs/architecture.md``. Images are not normalised: torchvision's detectors do that.

    Args:
        image_size: The longer side of every image is resized to this; None keeps the stored size (the detector resizes,
            too).
        masks: Read instance masks.
        skip_empty: Leave out training images without objects; evaluation keeps them.
        train_split: Name that stands for ``{split}`` in training; None for the layout's.
        val_split: The same in validation.
        layout: Where things lie: ``"coco"`` (``<split>/`` and ``annotations/instances_<split>.json``), ``"roboflow"``
            (``<split>/_annotations.coco.json`` between the images) or ``"lvis"`` (``annotations/lvis_v1_<split>.json``,
            images named by ``coco_url``).
        images: Folder of a split's images, relative to ``root`` or absolute; None for the layout's.
        annotations: JSON file of a split, relative to ``root`` or absolute; None for the layout's.
        drop_root_category: Leave out the category without objects that Roboflow puts above all others.
        train_transform: Training pipeline, a list of albumentations transforms (see ``dyvision.data.transforms``); if
            None, a horizontal flip.
        eval_transform: Evaluation pipeline, which may resize and change colours; if None, the image as it is.

    Raises:
        ValueError: If an argument is out of range or a pipeline is wrong.
    """

    task = "detection"

    def __init__(
        self,
        *args: Any,
        batch_size: int = 4,
        image_size: int | None = None,
        masks: bool = False,
        skip_empty: bool = True,
        train_split: str | None = None,
        val_split: str | None = None,
        layout: Literal["coco", "roboflow", "lvis"] = "coco",
        images: str | None = None,
        annotations: str | None = None,
        drop_root_category: bool = False,
        train_transform: list[TransformSpec] | None = None,
        eval_transform: list[TransformSpec] | None = None,
        **kwargs: Any,
    ) -> None:
        if layout not in COCO_LAYOUTS:
            raise ValueError(f"layout={layout!r}: expected one of {some(map(repr, COCO_LAYOUTS))}.")
        self.layout = COCO_LAYOUTS[layout]
        train_transform, eval_transform = plain_spec(train_transform), plain_spec(eval_transform)
        super().__init__(
            *args,
            batch_size=batch_size,
            train_split=train_split or self.layout.train,
            val_split=val_split or self.layout.val,
            **kwargs,
        )
        check_number("image_size", image_size, minimum=1, maximum=LARGEST_SIDE, integer=True, allow_none=True)
        resize: list[TransformSpec] = [] if image_size is None else [{"LongestMaxSize": {"max_size": image_size}}]
        train_transform = ["HorizontalFlip"] if train_transform is None else train_transform
        self.masks = masks
        self.skip_empty = skip_empty
        self.drop_root_category = drop_root_category
        self._images, self._annotations = images or self.layout.images, annotations or self.layout.annotations
        self._read: tuple[Path, CocoFile] | None = None
        self._train_pipeline = Pipeline([*resize, *train_transform], self.task, "train_transform")
        self._eval_pipeline = Pipeline([*resize, *(eval_transform or [])], self.task, "eval_transform")
        self._eval_pipeline.require_only_resizes("detections are compared and saved in pixels of the stored image")
        self._categories: tuple[Path, dict[int, str]] | None = None

    def annotation_file(self, split: str) -> Path:
        """The JSON file of a split."""
        return self.root / self._annotations.replace("{split}", split)

    def build_dataset(self, split: str, train: bool) -> CocoDataset:
        """The images of a split with their objects."""
        coco = self.read_annotations(split)
        self.findings.report()
        pipeline = self._train_pipeline if train else self._eval_pipeline
        return CocoDataset(
            coco, self.annotation_file(split), pipeline, train, self.masks, train and self.skip_empty,
            self._to_tensor(), self._dataset_options()["reader"],
        )  # fmt: skip

    def _filled(self, dataset: VisionDataset, split: str) -> VisionDataset:
        if len(dataset) == 0 and isinstance(dataset, CocoDataset) and dataset.listed:
            raise DataError(
                f"{self.annotation_file(split)}: none of its {dataset.listed} images has an object to train on "
                "(crowds and boxes without an area do not count)."
            )
        return super()._filled(dataset, split)

    def read_annotations(self, split: str, labels: bool = True) -> CocoFile:
        """The checked annotation file of a split; sets the classes. Reports to ``findings``.

        Args:
            split: Name of the split.
            labels: Whether annotations are needed; without, a file such as ``image_info_test-dev2017.json`` will do.

        Raises:
            DataError: If the file or an image is missing or cannot be used.
        """
        self.require_root(self.layout.describe())
        source = self.annotation_file(split)
        if self._read is not None and self._read[0] == source and labels:
            return self._read[1]  # training and validation with val_fraction are of one file
        folder = self.root / self._images.replace("{split}", split)
        coco = read_coco(source, folder, self.findings, self.masks, labels, self.drop_root_category, self.reader)
        self._set_classes(source, coco.categories)
        if self.masks and labels:
            coco.require_masks(source, self.findings)
        if self.val_fraction is not None and labels:
            self._read = (source, coco)
        return coco

    def build_predict_dataset(self) -> PredictDataset:
        """The images of ``predict_root``, or those of the validation split, which needs no annotations for this."""
        files, ids = self.predict_files(), None
        if self.predict_root is not None:
            for split in (self.train_split, self.val_split):
                source = self.annotation_file(split)
                if not self.class_names and source.is_file():
                    self._set_classes(source, read_categories(source, self.drop_root_category))
        elif self.val_fraction is not None:
            dataset = cast(CocoDataset, self.build_validation_dataset())
            files, ids = [Path(path) for path in dataset.paths()], dataset.image_ids()
        else:
            coco = self.read_annotations(self.val_split, labels=False)
            files, ids = [Path(path) for path in coco.paths], coco.ids
        return self.images_to_predict(files, ids)

    def _to_tensor(self) -> ToTensor:
        return partial(to_tensor, channels=self.channels)

    def _set_classes(self, source: Path, categories: dict[int, str]) -> None:
        if self._categories is None:
            self._categories = (source, categories)
            self.class_ids, self.class_names = list(categories), list(categories.values())
            self.num_classes = len(categories)
            self.class_colors = palette(self.num_classes)
        first, known = self._categories
        if known != categories:
            differing = [f"{key}: {known.get(key)!r} / {categories.get(key)!r}" for key in {**known, **categories}
                         if known.get(key) != categories.get(key)]  # fmt: skip
            raise DataError(f"{first} and {source} have different categories ({some(differing)}); they have to agree.")
