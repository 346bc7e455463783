"""If these failed, nobody would see what a network learns until it has learnt it."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dyvision import data as data_package
from dyvision.tasks import ClassificationTask, DetectionTask, SegmentationTask
from dyvision.tasks.callbacks import PredictionPictures
from dyvision.tasks.callbacks.classes import shown_classes
from dyvision.tasks.callbacks.pictures import draw_predictions

BACKBONE = "mobilenetv2_035"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Four training and three validation images of 48x64 in the three layouts: road below sky, one car."""
    root = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    labels = np.full((48, 64), 7, np.uint8)
    labels[:20] = 23
    for split, count in (("train", 4), ("val", 3)):
        images = []
        for number in range(count):
            picture = Image.fromarray(noise.integers(0, 255, (48, 64, 3), np.uint8))
            places = {
                root / "imagenet" / split / ("cat", "dog")[number % 2] / f"{number}.png": picture,
                root / "cityscapes" / "leftImg8bit" / split / "town" / f"{number}_leftImg8bit.png": picture,
                root / "cityscapes" / "gtFine" / split / "town" / f"{number}_gtFine_labelIds.png": Image.fromarray(
                    labels
                ),
                root / "coco" / f"{split}2017" / f"{number}.png": picture,
            }
            for path, image in places.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            images.append({"id": number + 1, "file_name": f"{number}.png", "height": 48, "width": 64})
        box = {"category_id": 1, "bbox": [10, 12, 30, 20], "area": 600, "iscrowd": 0}
        content = {
            "images": images,
            "annotations": [{"id": image["id"], "image_id": image["id"], **box} for image in images],
            "categories": [{"id": 1, "name": "car"}],
        }
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        (root / "coco" / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def _case(kind: str, root: Path):
    small = {"batch_size": 3, "num_workers": 0}
    if kind == "classification":
        return ClassificationTask(BACKBONE), data_package.ImageFolderDataModule(
            root / "imagenet", image_size=32, **small
        )
    if kind == "segmentation":
        data = data_package.CityscapesDataModule(root / "cityscapes", crop_size=(32, 32), **small)
        return SegmentationTask(BACKBONE, head="fcn"), data
    data = data_package.COCODataModule(root / "coco", **small)
    return DetectionTask(BACKBONE, head="fcos", fpn_channels=16, score_threshold=0.0), data


@pytest.mark.parametrize("kind", ["classification", "segmentation", "detection"])
def test_pictures_of_the_first_validation_images(root, tmp_path, kind):
    task, data = _case(kind, root)
    board = TensorBoardLogger(tmp_path, name="run")
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_train_batches=1,
        limit_val_batches=1,
        logger=board,
        callbacks=[PredictionPictures(count=3, score_threshold=0.0)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(task, datamodule=data)
    board.finalize("success")
    events = EventAccumulator(board.log_dir, size_guidance={"images": 0})
    events.Reload()
    (image,) = events.Images("val/predictions")
    assert image.step == 1
    assert image.width > 2 * 100
    batch = next(iter(data.val_dataloader()))
    sheet = np.asarray(PredictionPictures(count=2).draw(task.eval(), batch))
    # truth and prediction stand side by side, and differ for a network that has seen one batch
    assert sheet.shape[2] == 3
    assert sheet.std() > 5


def test_truth_fills_the_picture_where_the_label_map_keeps_its_size(root) -> None:
    data = data_package.CityscapesDataModule(root / "cityscapes", image_size=(24, 32), batch_size=3, num_workers=0)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert "mask_size" in batch
    found = {"path": batch["path"], "label_maps": list(batch["mask"])}
    colors = [[10 * index, 0, 0] for index in range(19)]
    names = [str(index) for index in range(19)]
    for _, truth, prediction in PredictionPictures._labels(batch, found, names, colors, data.reader):
        assert (np.asarray(truth) == np.asarray(prediction)).all()


@pytest.mark.parametrize(("first", "numbers"), [(0, ["0", "1", "2"]), (1, ["1", "2", "3"])])
def test_classes_without_names_are_their_numbers(first, numbers) -> None:
    assert shown_classes({}, 3, first).names == numbers
    assert shown_classes({"class_ids": [7, 11, 26]}, 3, first).names == ["7", "11", "26"]
    named = shown_classes(
        {"class_ids": [7, 11, 26], "class_names": ["a", "b", "c"], "class_colors": [[1, 2, 3]] * 3}, 3
    )
    assert named == ([7, 11, 26], ["a", "b", "c"], [[1, 2, 3]] * 3)
    assert len(shown_classes({}, 3).colors) == 3


@pytest.mark.parametrize("kind", ["classification", "segmentation", "detection"])
def test_a_file_of_pairs_takes_as_many_batches_as_it_needs(root, tmp_path, kind) -> None:
    task, data = _case(kind, root)
    data.batch_size = 2
    L.Trainer(accelerator="cpu", fast_dev_run=True, enable_progress_bar=False).validate(task, data, verbose=False)
    for count in (1, 3):
        path = draw_predictions(task, data, tmp_path / f"{count}.png", count, score_threshold=0.0)
        with Image.open(path) as sheet:
            # pairs of two pictures, two pairs a line
            assert (sheet.width > 1000) == (count == 3) and (sheet.height > 450) == (count == 3)
