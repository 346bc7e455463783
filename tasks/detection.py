"""Object detection and instance segmentation on COCO-format data.

A batch has ``image``, a list of float ``[3, H_i, W_i]`` in 0..1 (the detector normalises), and ``target``, a list of
dictionaries with ``boxes`` ``[N, 4]`` (xyxy, pixels of the given image), ``labels`` ``[N]`` in 1..num_classes, for Mask
R-CNN ``masks`` ``[N, H_i, W_i]``, ``image_id`` and ``original_size``; in evaluation also ``annotations``, COCO's own
dictionaries. Logged: ``train/loss`` and its parts (lower is better); COCO's twelve numbers as ``val/box_AP``,
``val/box_AP50``, ..., for heads with masks also ``val/mask_AP``, ... (higher is better). Images without objects are
fine, and every parameter gets a gradient in every step, so DDP needs no ``find_unused_parameters``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dyvision.backbones import create_backbone
from dyvision.tasks.base import BaseTask
from dyvision.tasks.divergence import checked_within
from dyvision.tasks.heads.detection import Detector, check_head, create_detector
from dyvision.tasks.heads.detection.config import (
    IMAGENET_GREY_MEAN,
    IMAGENET_GREY_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    DetectorConfig,
)
from dyvision.tasks.heads.detection.outputs import to_original
from dyvision.tasks.heads.detection.transform import drop_degenerate_boxes
from dyvision.tasks.metrics.coco import COCO_NUMBERS, CocoEvaluator, drop_not_finite
from dyvision.tasks.metrics.coco_backend import load_backend
from dyvision.tasks.preprocessing import expected_preprocessing

_LOGGER = logging.getLogger("dyvision.tasks")


class DetectionTask(BaseTask):
    """Trains a detector and evaluates it with pycocotools.

    Evaluation writes the detections in COCO's results format to ``coco_results_val_bbox.json`` (and ``_segm.json`` for
    masks) in the run's folder; pycocotools on these files gives the logged numbers exactly.

    Args:
        head: ``"retinanet"``, ``"fcos"``, ``"faster_rcnn"``, ``"mask_rcnn"``, ``"condinst"``, ``"ssdlite"``, or a dict
            with ``name`` and arguments of the head (``dyvision.tasks.heads.detection``):
            ``{"name": "fcos", "num_convs": 2}``.
        min_size: The shorter side of an image is resized to this many pixels (COCO: 800); a list draws one in training;
            None keeps the size the data module gives. SSDLite stretches to ``min_size`` x ``min_size``.
        max_size: Upper limit of the longer side in pixels.
        image_mean: Mean per channel, for images in 0..1; None takes what the backbone's pretrained weights expect, else
            ImageNet's.
        image_std: Standard deviation per channel; None as for ``image_mean``.
        fpn_channels: Channels of the feature pyramid and the heads on it; None for the published 256.
        anchor_scale: Factor on the default anchor sizes; below 1 for small images.
        score_threshold: Detections with a lower score are dropped; None for the head's default.
        nms_threshold: IoU above which the weaker of two detections of a class is dropped; None for the head's default.
        detections_per_image: Most detections kept per image; None for the head's default.
        coco_eval: What computes COCO's numbers: ``"pycocotools"``, or ``"faster-coco-eval"``, which agrees and is
            several times faster (``pip install 'dyvision[fast-eval]'``).
        results_dir: Folder of the results files; None for the run's folder.

    Raises:
        ValueError: For an unknown name or an argument out of range.
    """

    task: ClassVar[str] = "detection"
    monitor: ClassVar[str] = "val/box_AP"

    def __init__(
        self,
        *args: Any,
        head: str | dict[str, Any] = "retinanet",
        min_size: int | list[int] | None = None,
        max_size: int | None = 1333,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        fpn_channels: int | None = None,
        anchor_scale: float | None = None,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        detections_per_image: int | None = None,
        coco_eval: str = "pycocotools",
        results_dir: str | None = None,
        lr: float = 2e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, lr=lr, **kwargs)
        self._warned_boxes = False
        self.initialize()

    def check_arguments(self) -> None:
        """Check head and detector settings before the data is read."""
        check_head(self.hparams.head, **self._head_settings())
        load_backend(self._coco_eval)
        self._take_statistics()
        self._config()

    def _take_statistics(self) -> None:
        """The detector normalises, so it takes what the data modules of the other tasks do."""
        expected = expected_preprocessing(self.hparams)
        taken = {}
        for name in ("mean", "std"):
            if self.hparams[f"image_{name}"] is None and len(expected.get(name, ())) == self.hparams.in_chans:
                self.hparams[f"image_{name}"] = taken[name] = list(expected[name])
        shown = ", ".join(f"{name} {' '.join(f'{value:g}' for value in values)}" for name, values in taken.items())
        self._statistics = f"images as {expected['source']} expects them: {shown}" if taken else ""

    def _head_settings(self) -> dict[str, Any]:
        return {name: self.hparams[name] for name in ("fpn_channels", "anchor_scale")}

    def _config(self) -> DetectorConfig:
        values = self.hparams
        mean, std = values.image_mean or IMAGENET_MEAN, values.image_std or IMAGENET_STD
        if values.in_chans == 1:  # of the luminance
            mean, std = values.image_mean or IMAGENET_GREY_MEAN, values.image_std or IMAGENET_GREY_STD
        for name, value in (("image_mean", mean), ("image_std", std)):
            if len(value) != values.in_chans:
                raise ValueError(
                    f"{name}={list(value)}: expected {values.in_chans} numbers, one per channel (in_chans)."
                )
        names = ("min_size", "max_size", "score_threshold", "nms_threshold", "detections_per_image")
        return DetectorConfig(image_mean=mean, image_std=std, **{name: values[name] for name in names})

    # Building.

    def build_network(self, num_classes: int) -> Detector:
        """The backbone inside its detector."""
        if self._statistics:
            _LOGGER.info("%s", self._statistics)
        backbone = create_backbone(**self.backbone_arguments())
        self.load_backbone(backbone)
        return create_detector(self.hparams.head, backbone, num_classes, self._config(), **self._head_settings())

    def build_metric(self, num_classes: int) -> CocoEvaluator:
        """COCO's evaluation with the data's categories; without any they are called 1, 2, ..."""
        names = self.hparams.class_names or [str(class_id) for class_id in self._class_ids]
        return CocoEvaluator(self._class_ids, names, masks=self._detector.predicts_masks, backend=self._coco_eval)

    def setup(self, stage: str) -> None:
        """Take the classes from the data; results have the category ids of the data they are compared with."""
        data = getattr(self.trainer, "datamodule", None)
        self._config().warn_of_two_sizes(data)
        if class_ids := getattr(data, "class_ids", None):
            self.hparams.class_ids = [int(class_id) for class_id in class_ids]
        super().setup(stage)
        if stage != "predict" and not getattr(data, "masks", True) and self._detector.predicts_masks:
            raise ValueError(
                f"head={self.hparams.head!r} learns from and is evaluated on masks; set data.masks to true."
            )

    @property
    def backbone_network(self) -> nn.Module:
        """The backbone, without pyramid and head."""
        return self._detector.backbone

    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters of the backbone, without pyramid and head."""
        return self.backbone_network.parameters()

    @property
    def _detector(self) -> Detector:
        return cast(Detector, self.built_network)

    @property
    def _class_ids(self) -> list[int]:
        return list(self.hparams.class_ids or range(1, self.hparams.num_classes + 1))

    @property
    def _coco_eval(self) -> str:
        return str(self.hparams.get("coco_eval") or "pycocotools")

    # Running.

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        """Detect objects (in evaluation mode).

        Args:
            images: ``[3, H_i, W_i]`` each, in 0..1.

        Returns:
            Per image ``boxes`` ``[N, 4]``, ``labels`` in 1..num_classes, ``scores``, for heads with masks ``masks``
            ``[N, 1, H_i, W_i]``.
        """
        return self._detector(images)

    def _step(self, batch: Mapping[str, Any], stage: str) -> Tensor | None:
        self.require(batch, ("image", "target"))
        images, targets = batch["image"], batch["target"]
        if stage == "train":
            losses = self._detector(images, self._training_targets(batch))
            for name, value in losses.items():
                self.log(f"train/{name}", value.detach(), batch_size=len(images))
            return torch.stack(list(losses.values())).sum()
        for target in targets:
            self.require(target, ("image_id", "original_size", "annotations"))
        sizes = [target["original_size"] for target in targets]
        found = self._detect(images, sizes, batch.get("path", ()))
        self.evaluator(stage).update(found, targets, batch.get("valid"))
        return None

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, list[Any]]:
        """Detect objects in a batch without labels.

        Returns:
            ``path``, ``image_id``, ``original_size`` and ``predictions`` of the valid samples: per image ``boxes``
            (pixels of the original image), ``labels``, ``category_ids``, ``scores`` and for heads with masks ``masks``
            ``[N, H, W]`` (bool).
        """
        self.require(batch, ("image", "path", "image_id", "original_size"))
        detections = self._detect(batch["image"], batch["original_size"], batch["path"])
        found = [drop_not_finite(one)[0] for one in detections]
        result = {name: list(batch[name]) for name in ("path", "image_id", "original_size")}
        result["predictions"] = [{name: value.cpu() for name, value in one.items()} for one in found]
        valid = [bool(flag) for flag in batch.get("valid", [True] * len(found))]
        return {name: [one for one, flag in zip(values, valid, strict=True) if flag] for name, values in result.items()}

    def _detect(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], files: Sequence[Any]
    ) -> list[dict[str, Tensor]]:
        detector = self.built_network
        # of an exported file there are no modules; it is checked where it is run
        deciding = detector.deciding_modules() if isinstance(detector, Detector) else []
        with checked_within(self, deciding, files):
            detections = detector(images)
        return [
            to_original(found, (image.shape[-2], image.shape[-1]), (int(size[0]), int(size[1])), self._class_ids)
            for found, image, size in zip(detections, images, sizes, strict=True)
        ]

    def _training_targets(self, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        needed = ("boxes", "labels", "masks") if self._detector.predicts_masks else ("boxes", "labels")
        paths = batch.get("path") or ["an image without 'path'"] * len(batch["target"])
        kept = []
        for target, path in zip(batch["target"], paths, strict=True):
            if "masks" in needed and "masks" not in target:
                raise ValueError(f"{path}: the head learns from masks and there are none; set data.masks to true.")
            self.require(target, needed)
            labels = target["labels"]
            if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= self.hparams.num_classes:
                raise ValueError(
                    f"{path}: labels {sorted(set(labels.tolist()))}, expected 1..{self.hparams.num_classes} (0 is the "
                    "background, which has no boxes)."
                )
            target, dropped = drop_degenerate_boxes(dict(target))
            if dropped and not self._warned_boxes:
                warnings.warn(f"{path}: {dropped} box(es) without area left out; reported once.", stacklevel=2)
                self._warned_boxes = True
            kept.append(target)
        return kept

    # Results.

    def evaluator(self, stage: str) -> CocoEvaluator:
        """The metric of ``"val"`` or ``"test"``; after an epoch its ``per_class`` has the AP of each class."""
        return cast(CocoEvaluator, self.metrics[stage])

    def metric_names(self) -> list[str]:
        """COCO's numbers, of boxes and of masks."""
        kinds = ("box", "mask") if self._detector.predicts_masks else ("box",)
        return [f"{kind}_{name}" for kind in kinds for name in COCO_NUMBERS]

    def _log_metrics(self, stage: str) -> None:
        super()._log_metrics(stage)
        folder = self.results_folder()  # in every process: the trainer's answer is sent from the first one
        # Lightning does not annotate fast_dev_run
        if not (self.trainer.sanity_checking or cast(Any, self.trainer).fast_dev_run):
            self.evaluator(stage).save(folder, stage)

    def results_folder(self) -> Path:
        """Where evaluation writes its results files: ``results_dir``, or the run's folder."""
        return Path(self.hparams.results_dir or self.trainer.log_dir or self.trainer.default_root_dir)
