"""If these failed, masks would belong to another instance, be misplaced, or never be learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
from torch import Tensor

from dyvision.tasks import DetectionTask
from dyvision.tasks.heads.detection import Detector, create_detector
from dyvision.tasks.heads.detection.condinst_masks import MaskBranch, enlarge_masks, sample_targets, select_locations
from dyvision.tasks.heads.detection.config import DetectorConfig

SMALL = {"fpn_channels": 16, "num_convs": 1, "mask_channels": 16, "mask_convs": 1, "anchor_scale": 0.5}
NUM_CLASSES = 2
BACKBONE = "mobilenetv2_035"


def detector(config: DetectorConfig | None = None, name: str = "condinst", **arguments: Any) -> Detector:
    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONE, features_only=True, out_indices=(1, 2, 3, 4))
    return create_detector({"name": name, **SMALL, **arguments}, backbone, NUM_CLASSES, config)


def triangles(size: tuple[int, int] = (96, 96)) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Two images with two triangles each, light (class 1) and dark (class 2); each fills half of its box."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    side = min(height, width) // 2 - 8
    images, targets = [], []
    for number, corners in enumerate((((6, 4), (50, 46)), ((48, 6), (8, 52)))):
        image = torch.full((3, height, width), 0.5)
        masks, boxes = [], []
        for (left, top), value in zip(corners, (0.9, 0.1), strict=True):
            dx, dy = x - left * width // 96, y - top * height // 96
            mask = (dx >= 0) & (dy >= 0) & (dx < side) & (dy < side) & ((dx >= dy) if number else (dx + dy < side))
            image[:, mask] = value
            rows, columns = torch.where(mask)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            masks.append(mask)
        images.append(image)
        stacked = torch.stack(masks).to(torch.uint8)
        targets.append({"boxes": torch.tensor(boxes).float(), "labels": torch.tensor([1, 2]), "masks": stacked})
    return images, targets


def without_objects(targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value[:0] for name, value in target.items()} for target in targets]


def iou(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("empty", [0, 1, 2], ids=["objects", "one_empty", "empty"])
def test_every_parameter_gets_a_finite_gradient(empty: int, autocast: bool) -> None:
    model = detector()
    images, targets = triangles((64, 80))
    targets = without_objects(targets[:empty]) + targets[empty:]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = model(images, targets)
    assert losses["mask"].dtype == torch.float32
    assert (losses["mask"] == 0) if empty == 2 else (0 < losses["mask"] < 1)
    sum(losses.values()).backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not wrong
    if empty < 2:
        assert model.model.head.controller.weight.grad.abs().sum() > 0


def test_masks_of_a_batch_seen_again_and_again_are_learned() -> None:
    # the image is only 12 x 12 mask features, so edges stay coarse; a filled box has an IoU of 0.5
    model = detector(DetectorConfig(score_threshold=0.2))
    images, targets = triangles()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, 80)
    history = []
    for _ in range(80):
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        schedule.step()
        history.append(float(losses["mask"].detach()))
    assert sum(history[-5:]) < 0.3 * sum(history[:5])
    model.eval()
    with torch.no_grad():
        found = model(images)
    reached = []
    for target, detections in zip(targets, found, strict=True):
        for label, truth in zip(target["labels"], target["masks"], strict=True):
            best = int(torch.where(detections["labels"] == label)[0][0])
            reached.append(iou(detections["masks"][best, 0] > 0.5, truth > 0))
    assert min(reached) > 0.5 and sum(reached) / 4 > 0.65


@pytest.mark.parametrize("sizes", [[(9, 14)], [(200, 7)], [(33, 65), (1, 3)]], ids=str)
@pytest.mark.parametrize("min_size", [None, 48])
def test_results_have_the_form_of_mask_rcnns(min_size: int | None, sizes: list[tuple[int, int]]) -> None:
    config = DetectorConfig(min_size=min_size, max_size=96, score_threshold=0.0, detections_per_image=20)
    images = [torch.rand(3, *size) for size in sizes]
    rcnn = create_detector(
        {"name": "mask_rcnn", "fpn_channels": 16, "representation_size": 16, "mask_convs": 1, "mask_channels": 8},
        timm.create_model(BACKBONE, features_only=True, out_indices=(1, 2, 3, 4)),
        NUM_CLASSES,
        config,
    ).eval()
    with torch.no_grad():
        expected, found = rcnn(images), detector(config).eval()(images)
    for size, one, other in zip(sizes, expected, found, strict=True):
        assert {name: value.dtype for name, value in one.items()} == {n: v.dtype for n, v in other.items()}
        count = len(other["boxes"])
        assert 0 < count <= 20 and other["masks"].shape == (count, 1, *size)
        assert (other["masks"] >= 0).all() and (other["masks"] <= 1).all()
        assert (other["scores"].diff() <= 0).all()


def test_no_detection_gives_no_masks() -> None:
    model = detector(DetectorConfig(score_threshold=1.0)).eval()
    with torch.no_grad():
        found = model([torch.rand(3, 40, 50)])[0]
    assert found["boxes"].shape == (0, 4) and found["masks"].shape == (0, 1, 40, 50)


def test_boxes_and_their_losses_are_those_of_fcos() -> None:
    config = DetectorConfig(score_threshold=0.02, detections_per_image=30)
    ours = detector(config, topk_candidates=15)
    box = {name: SMALL[name] for name in ("fpn_channels", "num_convs", "anchor_scale")}
    backbone = timm.create_model(BACKBONE, features_only=True, out_indices=(1, 2, 3, 4))
    theirs = create_detector({"name": "fcos", **box, "topk_candidates": 15}, backbone, NUM_CLASSES, config)
    assert not theirs.load_state_dict(ours.state_dict(), strict=False).missing_keys
    images, targets = triangles((64, 80))
    expected, losses = theirs(images, targets), ours(images, targets)
    assert set(losses) == {*expected, "mask"}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    with torch.no_grad():
        for one, other in zip(theirs.eval()(images), ours.eval()(images), strict=True):
            assert len(one["boxes"]) > 5
            for name, value in one.items():
                torch.testing.assert_close(other[name], value)


def test_a_detection_has_the_mask_of_its_own_location() -> None:
    # parameters that make an instance's network "left of my location" of its first coordinate
    model = detector(DetectorConfig(score_threshold=0.0, detections_per_image=40, nms_threshold=1.0)).eval()
    head = model.model.head
    with torch.no_grad():
        head.controller.weight.zero_()
        head.controller.bias.zero_()
        head.controller.bias[0] = 100.0  # first hidden unit: 100 * (location x - pixel x) / size
        head.controller.bias[10 * 8 + 8 * 8] = 1.0  # output weight of the first unit
        head.controller.bias[10 * 8] = 1.0  # second layer, first unit from first unit
        head.controller.bias[-1] = -1.0
        head.regression_head.bbox_reg.weight.zero_()
        head.regression_head.bbox_reg.bias.fill_(1.0)  # boxes reach one unit to all sides of the location
        found = model([torch.rand(3, 128, 128)])[0]
    boxes, masks = found["boxes"], found["masks"][:, 0] > 0.5
    inside = (boxes[:, 0] > 0) & (boxes[:, 2] < 128)
    assert inside.sum() > 10
    centres = (boxes[inside, 0] + boxes[inside, 2]) / 2
    # anchor_scale 0.5: a unit is half a cell, a box two units wide, the centre of the cell one unit further
    expected = centres + (boxes[inside, 2] - boxes[inside, 0]) / 2
    widths = masks[inside].any(1).sum(-1)
    assert ((widths - expected).abs() <= 8).all()


def test_every_object_gets_its_share_of_the_locations() -> None:
    objects = torch.tensor([-1, 0, 0, 0, 0, 2, -1, 2, 2, 5])
    scores = torch.tensor([0.9, 0.1, 0.4, 0.3, 0.2, 0.5, 0.9, 0.7, 0.6, 0.0])
    assert select_locations(objects, scores, 6).tolist() == [2, 3, 7, 8, 9]
    assert select_locations(objects, scores, 1).tolist() == [2, 7, 9]
    assert len(select_locations(objects, scores, 100)) == 8
    assert select_locations(torch.full((4,), -1), scores[:4], 6).tolist() == []


def test_targets_are_sampled_at_the_centres_of_the_pixels_and_padded() -> None:
    masks = torch.zeros(1, 9, 14, dtype=torch.uint8)
    masks[0, 6, 10] = 1
    sampled = sample_targets(masks, 4, (4, 8))
    assert sampled.shape == (1, 4, 8) and sampled.sum() == 1 and sampled[0, 1, 2] == 1
    assert sample_targets(masks[:, :1, :1], 4, (4, 8)).sum() == 0


def test_enlarged_masks_lie_where_the_targets_were_sampled() -> None:
    y, x = torch.meshgrid(torch.arange(60), torch.arange(70), indexing="ij")
    truth = ((x - 40) ** 2 + (y - 25) ** 2 < 15**2)[None]
    sampled = sample_targets(truth, 4, (16, 24))[:, None]
    for factor in (1, 2):
        mask = enlarge_masks(sampled, 4, (60, 70), (60 * factor, 70 * factor))[0, 0]
        assert mask.shape == (60 * factor, 70 * factor)
        rows, columns = torch.where(mask > 0.45)
        # the centre of the pixel (25, 40) of the small image
        assert abs((rows.float().mean() + 0.5) / factor - 25.5) < 0.6
        assert abs((columns.float().mean() + 0.5) / factor - 40.5) < 0.6


def test_mask_branch_takes_sizes_that_do_not_divide() -> None:
    maps = [torch.rand(2, 4, 13, 9), torch.rand(2, 4, 7, 5), torch.rand(2, 4, 4, 3), torch.rand(2, 4, 2, 2)]
    assert MaskBranch(4, 3, 6, 1, 8)(maps).shape == (2, 8, 13, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_channels": 0}, "mask_channels=0: expected an integer in"),
        ({"masks_per_image": 0}, "masks_per_image=0"),
        ({"mask_chanels": 8}, "mask_channels"),
        ({"anchor_sizes": [[4, 8]] * 5}, "one size per level"),
    ],
)
def test_wrong_arguments_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector(**arguments)


class Scenes(L.LightningDataModule):
    """One batch, with the attributes a data module has."""

    num_classes, class_names, class_ids = NUM_CLASSES, ["light", "dark"], [5, 90]
    class_colors = ((255, 0, 0), (0, 255, 0))

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        images, targets = triangles()
        for number, target in enumerate(targets, 1):
            target |= {"image_id": number, "original_size": (96, 96), "annotations": []}
            for index, (x1, y1, x2, y2) in enumerate(target["boxes"].tolist()):
                corners = [x1, y1, x2, y1, x2, y2] if number == 2 else [x1, y1, x2, y1, x1, y2]
                annotation = {"id": 10 * number + index, "image_id": number, "category_id": (5, 90)[index]}
                annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) ** 2 / 2, "iscrowd": 0}
                target["annotations"].append({**annotation, "segmentation": [corners]})
        batch = {"image": images, "target": targets, "path": ["1.jpg", "2.jpg"], "valid": torch.ones(2).bool()}
        return torch.utils.data.DataLoader([batch] * 60, batch_size=None)

    val_dataloader = train_dataloader


def test_training_the_task_gives_coco_numbers_and_results_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = {"name": "condinst", **{name: SMALL[name] for name in ("num_convs", "mask_channels", "mask_convs")}}
    task = DetectionTask(
        backbone=BACKBONE,
        head=head,
        fpn_channels=16,
        anchor_scale=0.5,
        lr=5e-3,
        warmup_steps=0,
        lr_schedule="constant",
        results_dir=str(tmp_path),
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        max_epochs=2,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=2,
        enable_checkpointing=False,
        **quiet,
    )
    trainer.fit(task, datamodule=Scenes())
    logged = trainer.callback_metrics
    assert logged["val/mask_AP50"] > 0.5 and logged["val/box_AP50"] > 0.5
    entries = json.loads((tmp_path / "coco_results_val_segm.json").read_text())
    assert {entry["category_id"] for entry in entries} <= {5, 90} and "counts" in entries[0]["segmentation"]
