"""If these failed, masks or boxes would be saved in pixels of what the network saw, not of the stored image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_api

from dyvision.data import COCODataModule
from dyvision.tasks import DetectionTask
from dyvision.tasks.callbacks import PredictionWriter

SIZES = {"wide": (50, 120), "high": (96, 40), "small": (30, 31)}
CONDINST = {"name": "condinst", "num_convs": 1, "mask_channels": 16, "mask_convs": 1}


@pytest.mark.parametrize("head", ["mask_rcnn", CONDINST], ids=["mask_rcnn", "condinst"])
@pytest.mark.parametrize(
    "options", [{"image_size": 64}, {"eval_transform": [{"Resize": {"height": 64, "width": 96}}]}], ids=str
)
def test_masks_have_the_size_of_the_photo(make_trainer: Any, tmp_path: Path, head: Any, options: Any) -> None:
    (tmp_path / "photos").mkdir()
    for seed, (name, (height, width)) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    torch.manual_seed(0)
    task = DetectionTask(
        "mobilenetv2_035", head=head, num_classes=2, fpn_channels=16, score_threshold=0.0, detections_per_image=10
    )
    data = COCODataModule("none", batch_size=2, num_workers=0, predict_root=tmp_path / "photos", **options)
    make_trainer(callbacks=[PredictionWriter(tmp_path / "out")]).predict(task, datamodule=data)
    images = {one["id"]: one for one in json.loads((tmp_path / "out" / "images.json").read_text())}
    assert {Path(one["file_name"]).stem: (one["height"], one["width"]) for one in images.values()} == SIZES
    boxes, masks = (json.loads((tmp_path / "out" / f"detections_{kind}.json").read_text()) for kind in ("bbox", "segm"))
    assert len(boxes) == len(masks) and {one["image_id"] for one in masks} == set(images)
    filled = 0
    for box, mask in zip(boxes, masks, strict=True):
        image = images[mask["image_id"]]
        assert mask["segmentation"]["size"] == [image["height"], image["width"]]
        if head == "mask_rcnn" and mask_api.area(mask["segmentation"]):
            # it draws a mask into its box; both are brought to the photo by themselves
            filled += 1
            x, y, w, h = mask_api.toBbox(mask["segmentation"])
            left, top, width, height = box["bbox"]
            assert x >= left - 3 and y >= top - 3 and x + w <= left + width + 3 and y + h <= top + height + 3
    assert filled or head != "mask_rcnn"
