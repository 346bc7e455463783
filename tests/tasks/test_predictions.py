"""If these failed, predictions would be written under other names, classes or sizes than they have."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dyvision.tasks.callbacks import PredictionWriter
from dyvision.tasks.callbacks.predictions import output_name

NAMES, IDS, COLORS = ["road", "car"], [7, 300], [[255, 0, 0], [0, 255, 0]]


@pytest.fixture
def images(tmp_path):
    """Two images of one name in different folders, of different sizes."""
    paths = [tmp_path / "in" / "a" / "one.png", tmp_path / "in" / "b" / "one.jpg"]
    for path, size in zip(paths, [(12, 8), (20, 16)], strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (100, 100, 100)).save(path)
    return [str(path) for path in paths]


def write(writer: PredictionWriter, outputs: dict, root: Path, **hparams) -> None:
    known = {"num_classes": 2, "class_names": NAMES, "class_ids": IDS, "class_colors": COLORS}
    trainer = SimpleNamespace(datamodule=SimpleNamespace(predict_root=root, root=None), is_global_zero=True)
    module = SimpleNamespace(hparams={**known, **hparams})
    writer.on_predict_start(trainer, module)
    writer.on_predict_batch_end(trainer, module, outputs, None, 0)
    writer.on_predict_end(trainer, module)


def test_classes(images, tmp_path):
    outputs = {"path": images, "probabilities": torch.tensor([[0.25, 0.75], [0.5, 0.5]]), "label": torch.tensor([1, 0])}
    write(PredictionWriter(tmp_path / "out"), outputs, tmp_path / "in")
    rows = list(csv.reader((tmp_path / "out" / "predictions.csv").open()))
    assert rows[0] == ["path", "class", "probability", "class_2", "probability_2"]
    assert rows[1] == [images[0], "car", "0.750000", "road", "0.250000"]
    assert len(rows) == 3


def test_label_maps_have_the_data_sets_ids_and_names_stay_apart(images, tmp_path):
    maps = [torch.zeros(8, 12, dtype=torch.uint8), torch.ones(16, 20, dtype=torch.uint8)]
    maps[0][2, 3] = 1
    write(PredictionWriter(tmp_path / "out"), {"path": images, "label_maps": maps}, tmp_path / "in")
    first, second = (np.asarray(Image.open(tmp_path / "out" / "labels" / name / "one.png")) for name in "ab")
    assert first[2, 3] == 300
    assert (first == 7).sum() == 8 * 12 - 1
    assert second.shape == (16, 20)
    overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a" / "one.png")).astype(int)
    assert overlay[2, 3, 1] > overlay[2, 3, 0]
    assert overlay[0, 0, 0] > overlay[0, 0, 1]


def test_ids_below_256_make_an_ordinary_png(images, tmp_path):
    outputs = {"path": images[:1], "label_maps": [torch.ones(8, 12, dtype=torch.int64)]}
    write(PredictionWriter(tmp_path / "out", draw=False), outputs, tmp_path / "in", class_ids=None)
    file = Image.open(tmp_path / "out" / "labels" / "a" / "one.png")
    assert file.mode == "L"
    assert set(np.asarray(file).flat) == {1}
    assert not (tmp_path / "out" / "overlays").exists()


def test_boxes(images, tmp_path):
    masks = torch.zeros(2, 8, 12, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    found = {
        "boxes": torch.tensor([[2.0, 1.0, 5.0, 3.0], [0.0, 0.0, 12.0, 8.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.9, 0.1]),
        "masks": masks,
    }
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    nothing["masks"] = torch.zeros(0, 16, 20, dtype=torch.bool)
    outputs = {"path": images, "predictions": [found, nothing], "image_id": [42, 43]}
    write(PredictionWriter(tmp_path / "out"), outputs, tmp_path / "in")
    boxes = json.loads((tmp_path / "out" / "detections_bbox.json").read_text())
    assert [(entry["image_id"], entry["category_id"], entry["bbox"]) for entry in boxes] == [
        (42, 300, [2.0, 1.0, 3.0, 2.0]), (42, 7, [0.0, 0.0, 12.0, 8.0]),
    ]  # fmt: skip
    segments = json.loads((tmp_path / "out" / "detections_segm.json").read_text())
    from pycocotools import mask as codec

    assert codec.area(segments[0]["segmentation"]) == 6
    for name in "ab":
        assert (tmp_path / "out" / "boxes" / name / "one.png").is_file()


def test_names_of_images_that_differ_in_their_suffix(tmp_path):
    for name in ("x.png", "x.jpg", "x.json", "y.jpg"):
        (tmp_path / name).touch()
    names = [output_name(tmp_path / name, [tmp_path]).as_posix() for name in ("x.png", "x.jpg", "y.jpg")]
    assert names == ["x.png.png", "x.jpg.png", "y.png"]
    assert output_name(tmp_path / "y.jpg", [tmp_path / "y.jpg"]).as_posix() == "y.png"
    elsewhere = output_name(tmp_path / "y.jpg", [tmp_path / "other"])
    assert not elsewhere.is_absolute()
    assert elsewhere.name == "y.png"


def test_errors(images, tmp_path):
    with pytest.raises(ValueError, match="predict_step returned"):
        write(PredictionWriter(tmp_path / "out"), {"path": images}, tmp_path)
    with pytest.raises(ValueError, match="0 to 65535"):
        outputs = {"path": images[:1], "label_maps": [torch.zeros(8, 12, dtype=torch.uint8)]}
        write(PredictionWriter(tmp_path / "out"), outputs, tmp_path, class_ids=[-1, 3])
    with pytest.raises(ValueError, match="top_k"):
        PredictionWriter(tmp_path, top_k=0)
