"""Recompute the metrics of a checkpoint from the files it writes, and compare with what ``dyvision validate`` reports.

    python benchmarks/check_metrics.py CKPT [options of dyvision validate]

Segmentation: mIoU from the saved label maps and the labelIds files, with NumPy. Detection: COCO's 12 numbers by
pycocotools from the saved results JSON. Ends with status 1 on a difference (1e-6 for mIoU, none for COCO's numbers).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from dyvision.cli.trainer import run_trainer
from dyvision.tasks.metrics.coco import COCO_NUMBERS


def main(checkpoint: str, options: list[str]) -> int:
    """Compare and print; return the number of differences."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--ckpt_path={checkpoint}", f"--trainer.default_root_dir={folder}/runs", *options]
        if torch.load(checkpoint, map_location="cpu", weights_only=True)["task"] == "detection":
            run = run_trainer("validate", [*arguments, f"--model.results_dir={folder}/results"])
            expected, tolerance = _coco_numbers(run.datamodule, Path(folder, "results")), 0.0
        else:
            run = run_trainer("validate", arguments)
            run_trainer("predict", [*arguments, f"--output={folder}/predictions"])
            expected, tolerance = _mean_iou(run, Path(folder, "predictions", "labels")), 1e-6
        reported = {name: float(run.trainer.callback_metrics[f"val/{name}"]) for name in expected}
    table = Table("metric", "reported", "recomputed", "difference")
    for name, value in expected.items():
        table.add_row(name, f"{reported[name]:.8f}", f"{value:.8f}", f"{abs(reported[name] - value):.1e}")
    Console().print(table)
    wrong = [name for name, value in expected.items() if abs(reported[name] - value) > tolerance]
    print("different: " + ", ".join(wrong) if wrong else "all equal")
    return len(wrong)


def _mean_iou(run: Any, labels: Path) -> dict[str, float]:
    ids = np.array(run.model.hparams.class_ids)
    truth_root = Path(run.datamodule.hparams.root, "gtFine", run.datamodule.hparams.val_split)
    index = np.zeros(256, dtype=np.int64)
    index[ids] = np.arange(len(ids))
    confusion = np.zeros((len(ids), len(ids)), dtype=np.int64)
    files = sorted(labels.rglob("*.png"))
    for file in files:
        stem = file.name.removesuffix(".png").removesuffix("_leftImg8bit")
        (truth_file,) = truth_root.rglob(f"{stem}_gtFine_labelIds.png")
        truth, found = np.asarray(Image.open(truth_file)), np.asarray(Image.open(file))
        known = np.isin(truth, ids)
        np.add.at(confusion, (index[truth[known]], index[found[known]]), 1)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    print(f"{len(files)} label maps, {confusion.sum()} pixels")
    present = union > 0
    return {"mIoU": float((confusion.diagonal()[present] / union[present]).mean())}


def _coco_numbers(data: Any, results: Path) -> dict[str, float]:
    annotations = Path(data.hparams.root, "annotations", "instances_val2017.json")
    truth = COCO(annotations)
    numbers: dict[str, float] = {}
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        file = results / f"coco_results_val_{iou_type}.json"
        if file.exists():
            evaluation = COCOeval(truth, truth.loadRes(str(file)), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            numbers |= {f"{kind}_{name}": float(n) for name, n in zip(COCO_NUMBERS, evaluation.stats, strict=True)}
    return numbers


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(1 if main(sys.argv[1], sys.argv[2:]) else 0)
