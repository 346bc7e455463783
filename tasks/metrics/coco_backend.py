"""The packages that compute COCO's numbers: pycocotools, or faster-coco-eval by name."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

#: pycocotools is the reference; faster-coco-eval (``pip install dyvision[fast-eval]``) agrees with it
BACKENDS = ("pycocotools", "faster-coco-eval")
_IOU_TYPES = {"box": "bbox", "mask": "segm"}


def load_backend(name: str) -> tuple[Any, Any]:
    """The classes ``COCO`` and ``COCOeval`` of a package.

    Raises:
        ValueError: If the name is unknown, or the package is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"coco_eval={name!r}: expected one of {', '.join(map(repr, BACKENDS))}")
    if name == "pycocotools":
        return import_module("pycocotools.coco").COCO, import_module("pycocotools.cocoeval").COCOeval
    try:
        package = import_module("faster_coco_eval")
    except ImportError as error:
        raise ValueError(
            f"coco_eval={name!r}: faster-coco-eval is not installed ({error}); pip install 'dyvision[fast-eval]', or "
            "use pycocotools"
        ) from error
    return package.COCO, package.COCOeval_faster


def evaluate(
    header: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    kind: str,
    backend: str = "pycocotools",
) -> Any:
    """Evaluates detections against annotations.

    Args:
        header: ``images`` and ``categories`` in COCO's format.
        annotations: COCO's annotations. They get ids from 1 here: COCOeval stores the id of the object that a detection
            matches and reads 0 as "none", so an object with id 0 would count as missed.
        results: Detections in COCO's results format.
        kind: ``"box"`` or ``"mask"``.
        backend: One of ``BACKENDS``.

    Returns:
        The ``COCOeval``, with ``stats`` if there are images.
    """
    coco_class, eval_class = load_backend(backend)
    numbered = [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)]
    # they report their progress on standard output
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _index(coco_class, {**header, "annotations": numbered})
        # loadRes cannot load an empty list, and it writes into the dictionaries it gets
        copies = [dict(result) for result in results]
        found = truth.loadRes(copies) if copies else _index(coco_class, {**header, "annotations": []})
        evaluation = eval_class(truth, found, _IOU_TYPES[kind])
        if header["images"]:
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    return evaluation


def _index(coco_class: Any, dataset: dict[str, Any]) -> Any:
    coco = coco_class()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def class_precision(evaluation: Any, kind: str, class_id: int) -> dict[str, float]:
    """``<kind>_AP`` and ``<kind>_AP50`` of one category; -1 if there is nothing to find."""
    if not evaluation.eval:
        return {f"{kind}_AP": -1.0, f"{kind}_AP50": -1.0}
    # [IoU thresholds, recalls, classes, object sizes, numbers of detections]; the category ids are sorted
    precision = evaluation.eval["precision"][:, :, list(evaluation.params.catIds).index(class_id), 0, -1]
    values = {f"{kind}_AP": precision, f"{kind}_AP50": precision[0]}
    return {name: float(part[part > -1].mean()) if (part > -1).any() else -1.0 for name, part in values.items()}
