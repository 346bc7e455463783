"""If these failed, a wrong setting would show as a crash far away, and processes would report different numbers."""

from __future__ import annotations

import json

import lightning as L
import pytest
import timm
import torch

from dyvision.layers import CoefficientBranch
from dyvision.tasks import DetectionTask
from dyvision.tasks.heads.detection import create_detector
from dyvision.tasks.heads.detection.config import DetectorConfig

BACKBONE = "mobilenetv2_035"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "fastercnn"}, "unknown detection head 'fastercnn'; did you mean 'faster_rcnn'"),
        ({"head": {"name": "fcos", "num_conv": 1}}, "has no argument 'num_conv'; did you mean 'num_convs'"),
        ({"head": {"num_convs": 1}}, "head=.*expected a name"),
        ({"min_size": 0}, "min_size=0: expected an integer in"),
        ({"score_threshold": 7.0}, "score_threshold=7.0: expected a number in .0, 1."),
        ({"image_mean": [0.5]}, "image_mean=.0.5.: expected 3 numbers"),
        ({"in_chans": 4}, "image_mean=.*expected 4 numbers"),
        ({"layer": "condcov"}, "condcov"),
        ({"num_classes": 0}, "num_classes=0"),
    ],
)
def test_wrong_arguments_of_the_task_are_explained_before_any_data(arguments, message):
    with pytest.raises(ValueError, match=message):
        DetectionTask(**{"backbone": BACKBONE, "head": "fcos", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "retinant"}, "unknown detection head 'retinant'; did you mean 'retinanet'"),
        ({"name": None}, "head=.*expected a name"),
        ({"name": "fcos", "num_conv": 2}, "head 'fcos' has no argument 'num_conv'; did you mean 'num_convs'"),
        ({"name": "fcos", "anchor_sizes": [8, 16]}, "anchor_sizes has 2 entries, the pyramid 5 levels"),
        ({"name": "fcos", "anchor_sizes": [[8, 9]] * 5}, "one size per level"),
        ({"name": "retinanet", "anchor_scale": 0.01}, "at least 2 pixels"),
        ({"name": "retinanet", "anchor_sizes": [8, 16, [1, 2], 4, 5]}, "same number of sizes"),
        ({"name": "retinanet", "norm": "batch"}, "norm='batch'"),
        ({"name": "retinanet", "num_convs": -1}, "num_convs=-1"),
        ({"name": "retinanet", "prior_probability": 1.0}, "prior_probability"),
        ({"name": "retinanet", "min_reduction": 64}, "the backbone has maps of reduction"),
        ({"name": "faster_rcnn", "rpn_convs": 0}, "rpn_convs=0"),
        ({"name": "mask_rcnn", "mask_convs": 0}, "mask_convs=0"),
        ({"name": "ssdlite", "min_ratio": 0.99}, "min_ratio"),
        ({"name": "ssdlite", "extra_channels": []}, "extra_channels"),
        ({"name": "ssdlite", "fpn_channels": 64}, "head 'ssdlite' has no argument 'fpn_channels'"),
    ],
)
def test_wrong_arguments_of_a_head_are_explained(arguments, message):
    backbone = timm.create_model(BACKBONE, features_only=True, out_indices=(1, 2, 3, 4))
    with pytest.raises(ValueError, match=message):
        create_detector(arguments, backbone, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_size": 0},
        {"max_size": 0},
        {"image_mean": []},
        {"image_std": [1, 1, 0]},
        {"score_threshold": 2.0},
        {"nms_threshold": -1.0},
        {"detections_per_image": 0},
    ],
    ids=str,
)
def test_wrong_settings_are_explained(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*expected"):
        DetectorConfig(**wrong)


def test_frozen_norms_keep_their_statistics_but_those_of_branches_move():
    task = DetectionTask(BACKBONE, head="fcos", fpn_channels=16, num_classes=3, freeze_norm=True)
    task.train()
    backbone = task.network.backbone
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert task.network.model.head.training
    branch = CoefficientBranch()
    branch.norm = torch.nn.BatchNorm2d(4)
    backbone.add_module("branch", branch)
    task.train()
    assert branch.norm.training


@pytest.mark.slow
def test_two_processes_report_what_one_reports(sample_data, tmp_path):
    from dyvision.data import COCODataModule

    results = {}
    for devices in (1, 2):
        # five validation images: one process gets a sample that only fills up
        # one by one: in another batch an image has other last digits on some processors
        data = COCODataModule(sample_data / "coco", batch_size=1, num_workers=0)
        strategy = "ddp_spawn" if devices == 2 else "auto"
        trainer = L.Trainer(
            accelerator="cpu",
            devices=devices,
            strategy=strategy,
            logger=False,
            default_root_dir=tmp_path / str(devices),
        )
        torch.manual_seed(0)
        task = DetectionTask(BACKBONE, head="ssdlite", score_threshold=0.0)
        results[devices] = trainer.validate(task, datamodule=data, verbose=False)[0]
    assert results[1] == results[2]
    files = [json.loads((tmp_path / folder / "coco_results_val_bbox.json").read_text()) for folder in ("1", "2")]
    assert files[0] == files[1] and len({entry["image_id"] for entry in files[0]}) == 5
