"""If these failed, a detector would learn wrong labels, report another AP than its file has, or forget its classes."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import dyvision
from dyvision.tasks import DetectionTask
from dyvision.tasks.heads.detection import list_detection_heads
from dyvision.tasks.metrics.coco import COCO_NUMBERS

BACKBONE = "mobilenetv2_035"
SMALL_RCNN = {"representation_size": 32, "box_batch_size_per_image": 32, "rpn_proposals_train": 50}
MASKS = ("condinst", "mask_rcnn")
HEADS = {
    "condinst": {"num_convs": 1, "mask_convs": 1, "mask_channels": 8},
    "faster_rcnn": SMALL_RCNN,
    "fcos": {"num_convs": 1},
    "mask_rcnn": {**SMALL_RCNN, "mask_convs": 1, "mask_channels": 8},
    "retinanet": {"num_convs": 1},
    "ssdlite": {"extra_channels": [16]},
}


def make_batch(sizes: list[tuple[int, int]], first_id: int = 1, scale: int = 1) -> dict:
    """Images with a light rectangle (class 1) and a dark one (class 3); stored images are ``scale`` times as large."""
    generator = torch.Generator().manual_seed(first_id)
    batch: dict = {"image": [], "target": [], "path": [], "valid": torch.ones(len(sizes), dtype=torch.bool)}
    for number, (height, width) in enumerate(sizes):
        image_id = first_id + number
        image = torch.rand(3, height, width, generator=generator) * 0.2 + 0.4
        boxes = torch.tensor(
            [[2, 4, width // 2, height // 2], [width // 2, height // 3, width - 3, height - 2]]
        ).float()
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, box, value in zip(masks, boxes.int().tolist(), (0.9, 0.1), strict=True):
            x1, y1, x2, y2 = box
            mask[y1:y2, x1:x2] = 1
            image[:, y1:y2, x1:x2] = value
        annotations = []
        for index, (x1, y1, x2, y2) in enumerate((boxes * scale).tolist()):
            annotation = {"id": 10 * image_id + index, "image_id": image_id, "category_id": (5, 90)[index]}
            annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            annotations.append({**annotation, "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]})
        target = {"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks, "image_id": image_id}
        target |= {"original_size": (height * scale, width * scale), "annotations": annotations}
        batch["image"].append(image)
        batch["target"].append(target)
        batch["path"].append(f"images/{image_id}.jpg")
    return batch


class Scenes(L.LightningDataModule):
    """Batches made in advance, with the attributes a data module has."""

    def __init__(self, batches: list[dict]) -> None:
        super().__init__()
        self.num_classes, self.class_names, self.class_ids = 3, ["lamp", "kite", "cave"], [5, 44, 90]
        self.class_colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
        self.batches = batches

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(self.batches, batch_size=None)

    val_dataloader = test_dataloader = train_dataloader

    def predict_dataloader(self) -> torch.utils.data.DataLoader:
        batches = []
        for batch in self.batches:
            extra = {key: [target[key] for target in batch["target"]] for key in ("image_id", "original_size")}
            batches.append({"image": batch["image"], "path": batch["path"], "valid": batch["valid"], **extra})
        return torch.utils.data.DataLoader(batches, batch_size=None)


def make_task(head: str = "fcos", **arguments) -> DetectionTask:
    torch.manual_seed(0)
    if head != "ssdlite":
        arguments = {"fpn_channels": 16, "anchor_scale": 0.5, **arguments}
    return DetectionTask(**{"backbone": BACKBONE, "head": {"name": head, **HEADS[head]}, **arguments})


def make_trainer(folder: Path, **arguments) -> L.Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    return L.Trainer(accelerator="cpu", default_root_dir=folder, **{**quiet, **arguments})


class Gradients(L.Callback):
    """Names of the parameters without a finite gradient in the last step (validation clears gradients)."""

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        named = pl_module.named_parameters()
        self.bad = [name for name, p in named if p.grad is None or not torch.isfinite(p.grad).all()]


def test_every_head_is_tested():
    assert sorted(HEADS) == list_detection_heads()


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_evaluates_and_predicts(head, tmp_path):
    task = make_task(head, lr=1e-3)
    data = Scenes([make_batch([(64, 64), (50, 70)])])
    gradients = Gradients()
    trainer = make_trainer(tmp_path, max_steps=1, callbacks=[gradients])
    assert task.network is None  # the number of classes comes from the data
    trainer.fit(task, datamodule=data)
    logged = trainer.callback_metrics
    assert torch.isfinite(logged["train/loss"])
    kinds = ("box", "mask") if head in MASKS else ("box",)
    assert {f"val/{kind}_{name}" for kind in kinds for name in COCO_NUMBERS} <= set(logged)
    assert gradients.bad == []

    (found,) = trainer.predict(task, datamodule=data)
    assert found["path"] == ["images/1.jpg", "images/2.jpg"] and found["image_id"] == [1, 2]
    for size, prediction in zip(found["original_size"], found["predictions"], strict=True):
        count = len(prediction["boxes"])
        assert prediction["boxes"].shape == (count, 4) and prediction["scores"].shape == (count,)
        assert set(prediction["category_ids"].tolist()) <= {5, 44, 90}
        assert ("masks" in prediction) == (head in MASKS)
        if "masks" in prediction:
            assert prediction["masks"].shape == (count, *size) and prediction["masks"].dtype == torch.bool


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("layer", dyvision.list_layers())
def test_every_layer_takes_a_training_step(layer, precision, tmp_path):
    task = make_task("fcos", layer=layer, num_classes=3)
    before = {name: value.detach().clone() for name, value in task.named_parameters()}
    gradients = Gradients()
    trainer = make_trainer(tmp_path, max_steps=2, limit_val_batches=0, precision=precision, callbacks=[gradients])
    trainer.fit(task, datamodule=Scenes([make_batch([(64, 64), (64, 48)])] * 2))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert gradients.bad == []
    changed = sum(not torch.equal(before[name], value) for name, value in task.named_parameters())
    assert changed > 0.9 * len(before)


def test_loss_falls_and_the_right_categories_are_found(tmp_path):
    # ten times the same batch, then on: bright and dark rectangles are easy
    data = Scenes([make_batch([(64, 64), (64, 64)], scale=2)] * 10)
    task = make_task("fcos", lr=4e-3, lr_schedule="constant", warmup_steps=0, score_threshold=0.05)
    losses = []

    class Recorder(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    trainer = make_trainer(
        tmp_path, max_epochs=4, limit_val_batches=1, check_val_every_n_epoch=4, callbacks=[Recorder()]
    )
    trainer.fit(task, datamodule=data)
    assert sum(losses[8:10]) < 0.85 * sum(losses[:2])
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert (
        trainer.callback_metrics["val/box_AP50"] > 0.5
    )  # with ids 5 and 90, in the pixels of the larger stored images


def test_logged_numbers_are_those_of_the_results_file(tmp_path):
    data = Scenes([make_batch([(64, 64), (50, 70)], scale=2), make_batch([(40, 40)], first_id=3, scale=2)])
    task = make_task("mask_rcnn", score_threshold=0.0, results_dir=str(tmp_path / "results"))
    values = make_trainer(tmp_path).validate(task, datamodule=data, verbose=False)[0]
    truth = COCO()
    targets = [target for batch in data.batches for target in batch["target"]]
    truth.dataset = {
        "info": {},
        "images": [
            {"id": t["image_id"], "height": t["original_size"][0], "width": t["original_size"][1]} for t in targets
        ],
        "annotations": [annotation for t in targets for annotation in t["annotations"]],
        "categories": [{"id": k, "name": n} for k, n in zip(data.class_ids, data.class_names, strict=True)],
    }
    truth.createIndex()
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        file = tmp_path / "results" / f"coco_results_val_{iou_type}.json"
        assert len(json.loads(file.read_text())) > 0
        evaluation = COCOeval(truth, truth.loadRes(str(file)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert [values[f"val/{kind}_{name}"] for name in COCO_NUMBERS] == evaluation.stats.tolist()
    assert set(task.evaluator("val").per_class) == {"lamp", "kite", "cave"}


def test_checkpoint_needs_nothing_else(tmp_path):
    data = Scenes([make_batch([(64, 64)])])
    task = make_task("retinanet", score_threshold=0.0, detections_per_image=7)
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    again = DetectionTask.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert again.hparams.class_names == data.class_names and again.hparams.class_ids == data.class_ids
    images = data.batches[0]["image"]
    with torch.no_grad():
        expected, found = task.eval()(images), again.eval()(images)
    assert len(found[0]["boxes"]) == 7
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(expected[0][name], found[0][name])


def test_ids_follow_the_data_that_is_evaluated(tmp_path):
    task = make_task("fcos", num_classes=3, class_ids=[1, 2, 3])
    make_trainer(tmp_path).validate(task, datamodule=Scenes([make_batch([(64, 64)])]), verbose=False)
    assert task.hparams.class_ids == [5, 44, 90]


def test_batches_without_objects_train(tmp_path):
    batch = make_batch([(64, 64), (64, 64)])
    for target in batch["target"]:
        target |= {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "annotations": []}
    task = make_task("fcos")
    gradients = Gradients()
    trainer = make_trainer(tmp_path, max_steps=1, callbacks=[gradients])
    trainer.fit(task, datamodule=Scenes([batch]))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert trainer.callback_metrics["val/box_AP"] == -1
    assert gradients.bad == []


def test_padded_samples_do_not_count(tmp_path):
    batches = [make_batch([(64, 64), (64, 64)])]
    task = make_task("fcos", score_threshold=0.0)
    trainer = make_trainer(tmp_path)
    trainer.validate(task, datamodule=Scenes(batches), verbose=False)
    both = json.loads((tmp_path / "coco_results_val_bbox.json").read_text())
    batches[0]["valid"] = torch.tensor([True, False])
    trainer.validate(task, datamodule=Scenes(batches), verbose=False)
    one = json.loads((tmp_path / "coco_results_val_bbox.json").read_text())
    assert {entry["image_id"] for entry in both} == {1, 2} and {entry["image_id"] for entry in one} == {1}


def test_boxes_without_area_are_left_out_and_reported_once(tmp_path):
    batch = make_batch([(64, 64)])
    batch["target"][0]["boxes"][0, 2] = 0.0
    with pytest.warns(UserWarning, match=r"images/1.jpg: 1 box.*without area") as caught:
        make_trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(make_task(), datamodule=Scenes([batch] * 3))
    assert sum("without area" in str(warning.message) for warning in caught) == 1


def drop_masks(batch: dict) -> None:
    del batch["target"][0]["masks"]


def label_zero(batch: dict) -> None:
    batch["target"][0]["labels"][0] = 0


def no_annotations(batch: dict) -> None:
    del batch["target"][0]["annotations"]


@pytest.mark.parametrize(
    ("head", "damage", "message"),
    [
        ("mask_rcnn", drop_masks, "images/1.jpg: the head learns from masks .* data.masks"),
        ("fcos", label_zero, r"images/1.jpg: labels \[0, 3\], expected 1..3"),
        ("fcos", lambda batch: batch.pop("target"), r"needs \['target'\]"),
        ("fcos", no_annotations, r"needs \['annotations'\]"),
    ],
)
def test_wrong_batches_are_explained(head, damage, message, tmp_path):
    batch = make_batch([(64, 64)])
    damage(batch)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, max_steps=1, num_sanity_val_steps=0).fit(make_task(head), datamodule=Scenes([batch]))


def test_a_loss_that_is_not_finite_names_the_files(tmp_path):
    batch = make_batch([(64, 64)])
    batch["image"][0][0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"images/1.jpg"):
        make_trainer(tmp_path, max_steps=1, num_sanity_val_steps=0).fit(make_task(), datamodule=Scenes([batch]))
