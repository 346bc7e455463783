"""COCO's twelve numbers over a whole split, computed by pycocotools (or faster-coco-eval).

What is evaluated is what is saved: boxes and scores are rounded first, so ``COCOeval`` on the saved results file gives
the same twelve numbers to the last bit. Ground truth are the annotations of the batches, crowds included.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_api
from torch import Tensor
from torchmetrics import Metric

from dyvision.saving import write_text
from dyvision.tasks.metrics.coco_backend import class_precision, evaluate, load_backend
from dyvision.tasks.metrics.coco_gather import compute_on_first, gather_objects

#: the twelve numbers in pycocotools' order: average precision over IoU 0.50:0.95, at 0.50 and at 0.75, by object size;
#: average recall with 1, 10 and 100 detections per image, by object size. Higher is better; -1: nothing to find
COCO_NUMBERS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
_KINDS = {"box": "bbox", "mask": "segm"}
#: thousandths of a pixel and millionths of a score keep results files small
_BOX_DECIMALS, _SCORE_DECIMALS = 3, 6


@dataclass
class _Image:
    """Detections and ground truth of one image, small enough to send to another process."""

    size: tuple[int, int]
    annotations: list[dict[str, Any]]
    boxes: list[list[float]]
    scores: list[float]
    category_ids: list[int]
    masks: list[dict[str, Any]] | None


@dataclass
class _Summary:
    values: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)


class CocoEvaluator(Metric):
    """Collects detections image by image and evaluates them once with ``pycocotools``.

    In a distributed run every process feeds its own images; the first process evaluates all of them and every process
    gets the result. An image that arrives twice counts once. It is a torchmetrics metric without tensor states:
    annotations and run-length codes are no tensors, so it does its own exchange between processes.

    Args:
        class_ids: COCO category id of each class.
        class_names: Name of each class.
        masks: Evaluate masks, too.
        backend: ``"pycocotools"``, or ``"faster-coco-eval"`` for the same numbers several times faster.

    Attributes:
        per_class: After ``compute``: class name -> ``box_AP``, ``box_AP50`` (and ``mask_AP``, ``mask_AP50``).

    Raises:
        ValueError: If there are not as many names as ids, an id appears twice, or there is no such backend.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    def __init__(
        self,
        class_ids: Sequence[int],
        class_names: Sequence[str],
        masks: bool = False,
        backend: str = "pycocotools",
    ) -> None:
        super().__init__(sync_on_compute=False)
        load_backend(backend)
        self.backend = backend
        self._warned = False
        if len(class_ids) != len(class_names) or len(set(class_ids)) != len(class_ids):
            raise ValueError(f"class_ids={list(class_ids)}: expected {len(class_names)} different ids, one per class.")
        self.class_ids = [int(class_id) for class_id in class_ids]
        self.class_names = list(class_names)
        self.kinds = ["box", "mask"] if masks else ["box"]
        self.per_class: dict[str, dict[str, float]] = {}
        self._images: dict[int, _Image] = {}
        self._results: dict[str, list[dict[str, Any]]] = {}

    def reset(self) -> None:
        """Forget the images; ``per_class`` and what ``save`` writes stay those of the last ``compute``."""
        super().reset()
        self._images = {}

    def update(
        self,
        detections: Sequence[Mapping[str, Tensor]],
        targets: Sequence[Mapping[str, Any]],
        valid: Tensor | Sequence[bool] | None = None,
    ) -> None:
        """Add the images of one batch.

        Args:
            detections: Per image ``boxes`` ``[N, 4]`` (xyxy, pixels of the original image), ``scores`` ``[N]``,
                ``category_ids`` ``[N]`` and, if masks are evaluated, ``masks`` ``[N, H, W]`` (bool, original size).
            targets: Per image ``image_id``, ``original_size`` ``(H, W)`` and ``annotations`` (COCO's dictionaries).
            valid: ``[B]``, False for images that only fill up a batch and do not count.
        """
        counts = [True] * len(targets) if valid is None else [bool(flag) for flag in valid]
        for found, target, count in zip(detections, targets, counts, strict=True):
            image_id = int(target["image_id"])
            if not count or image_id in self._images:
                continue
            found, lost = drop_not_finite(found)
            if lost and not self._warned:
                self._warned = True
                warnings.warn(
                    f"image {image_id}: {lost} detections have a box or score that is not finite; they count as not "
                    "found. Look at the weights: a lower lr or gradient clipping may help. Reported once.",
                    stacklevel=2,
                )
            boxes = found["boxes"].detach().cpu().double().numpy().reshape(-1, 4)
            corner_and_size = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            height, width = target["original_size"]
            self._images[image_id] = _Image(
                size=(int(height), int(width)),
                annotations=[self._slim(annotation) for annotation in target["annotations"]],
                boxes=np.round(corner_and_size, _BOX_DECIMALS).tolist(),
                scores=np.round(found["scores"].detach().cpu().double().numpy(), _SCORE_DECIMALS).tolist(),
                category_ids=[int(category) for category in found["category_ids"]],
                masks=encode_masks(found["masks"]) if "mask" in self.kinds else None,
            )

    def _slim(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        # polygons are most of an annotation's bytes
        needless = () if "mask" in self.kinds else ("segmentation",)
        return {name: value for name, value in annotation.items() if name not in needless}

    def compute(self) -> dict[str, Tensor]:
        """Evaluate all images of all processes.

        Returns:
            ``box_AP``, ``box_AP50``, ... and with masks ``mask_AP``, ...: see ``COCO_NUMBERS``. In float64: logged
            values are exactly pycocotools'.

        Raises:
            RuntimeError: If the first process failed.
        """
        gathered = gather_objects(self._images)
        summary = compute_on_first(lambda: self._evaluate(gathered))
        self.per_class = summary.per_class
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in summary.values.items()}

    def save(self, folder: str | Path, stage: str) -> list[Path]:
        """Write the results of the last ``compute`` in COCO's format, in the first process only.

        Args:
            folder: Where to write; made if it does not exist.
            stage: Part of the file names: ``coco_results_<stage>_bbox.json`` and ``..._segm.json``.

        Returns:
            The files written.
        """
        written = []
        for kind, results in self._results.items():
            path = Path(folder) / f"coco_results_{stage}_{_KINDS[kind]}.json"
            write_text(path, json.dumps(results))
            written.append(path)
        return written

    def _evaluate(self, gathered: Sequence[Mapping[int, _Image]]) -> _Summary:
        images: dict[int, _Image] = {}
        for part in gathered:
            images.update(part)
        ordered = dict(sorted(images.items()))
        summary = _Summary(per_class={name: {} for name in self.class_names})
        header = {
            "info": {},
            "images": [{"id": key, "height": image.size[0], "width": image.size[1]} for key, image in ordered.items()],
            "categories": [
                {"id": key, "name": name} for key, name in zip(self.class_ids, self.class_names, strict=True)
            ],
        }
        for kind in self.kinds:
            self._results[kind] = coco_results(ordered, kind)
            truth = _ground_truth(ordered, kind)
            evaluation = evaluate(header, truth, self._results[kind], kind, self.backend)
            numbers = (
                [float(value) for value in evaluation.stats[: len(COCO_NUMBERS)]]
                if ordered
                else [-1.0] * len(COCO_NUMBERS)
            )
            summary.values |= {
                f"{kind}_{name}": float(value) for name, value in zip(COCO_NUMBERS, numbers, strict=True)
            }
            for number, name in enumerate(self.class_names):
                summary.per_class[name] |= class_precision(evaluation, kind, self.class_ids[number])
        return summary


def coco_results(images: Mapping[int, _Image], kind: str) -> list[dict[str, Any]]:
    """Detections in COCO's results format.

    Args:
        images: Image id -> detections.
        kind: ``"box"`` (``bbox``: x, y, width, height) or ``"mask"`` (``segmentation``: run-length code).
    """
    results = []
    for image_id, image in images.items():
        shapes: Sequence[Any] = image.boxes if kind == "box" else image.masks or []
        # no bbox beside a segmentation: pycocotools would take the object's area from the box
        key = "bbox" if kind == "box" else "segmentation"
        for category, shape, score in zip(image.category_ids, shapes, image.scores, strict=True):
            results.append({"image_id": image_id, "category_id": category, key: shape, "score": score})
    return results


def drop_not_finite(found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Leave out detections whose box or score is not finite.

    No comparison with NaN is true, so such a box would match every object there is.

    Args:
        found: ``boxes`` ``[N, 4]``, ``scores`` ``[N]`` and whatever else has N rows.

    Returns:
        The rest, and how many were left out.
    """
    finite = found["boxes"].reshape(-1, 4).isfinite().all(dim=1) & found["scores"].isfinite()
    lost = len(finite) - int(finite.sum())
    return (dict(found) if not lost else {name: value[finite] for name, value in found.items()}), lost


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Run-length encode masks as COCO's results format has them.

    Args:
        masks: ``[N, H, W]``, bool or 0 and 1.

    Returns:
        N dictionaries with ``size`` and ``counts`` (text).
    """
    encoded = []
    for mask in masks.detach().cpu().numpy():
        code = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
        encoded.append({"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")})
    return encoded


def _ground_truth(images: Mapping[int, _Image], kind: str) -> list[dict[str, Any]]:
    truth = []
    for image_id, image in images.items():
        for annotation in image.annotations:
            # pycocotools stops at an object without a mask
            if kind == "mask" and not annotation.get("segmentation"):
                continue
            width, height = annotation["bbox"][2:]
            # files written by hand often lack area and iscrowd, which pycocotools needs
            truth.append({"area": width * height, "iscrowd": 0, **annotation, "image_id": image_id})
    return truth
