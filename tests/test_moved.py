"""Class paths that configs and checkpoints of earlier versions have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyvision.moved import current_path
from dyvision.tasks import DetectionTask, SegmentationTask
from dyvision.tasks.components import import_object
from dyvision.trust import is_known

HEADS = "dyvision.tasks.heads"


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("loss", "dyvision.tasks.losses.OHEMLoss", nn.Module),
        ("loss", "dyvision.tasks.losses.SegmentationLoss", nn.Module),
        ("head", f"{HEADS}.segmentation.OneLevelHead", nn.Module),
        *(("head", f"{HEADS}.detection_dense.build_{name}", nn.Module) for name in ("fcos", "retinanet")),
        *(("head", f"{HEADS}.detection_rcnn.build_{name}", nn.Module) for name in ("faster_rcnn", "mask_rcnn")),
        ("head", f"{HEADS}.detection_condinst.build_condinst", nn.Module),
        ("head", f"{HEADS}.detection_ssd.build_ssdlite", nn.Module),
    ],
)
def test_what_they_name_is_found_and_needs_no_trust(name, path, kind):
    assert is_known(name, path)
    assert import_object(path, name, kind, builders=True).__name__ == path.rpartition(".")[2]


@pytest.mark.parametrize(
    "path", ["dyvision.tasks.losses.torch", f"{HEADS}.detection_dense.math", f"{HEADS}.detection.nn"]
)
def test_what_a_module_only_imports_is_not_known(path):
    assert not is_known("loss", path) and not is_known("head", path)


@pytest.mark.parametrize("path", ["torch.nn.Linear", "losses.OHEMLoss", "mine.dyvision.tasks.losses.A", "OHEMLoss", ""])
def test_other_paths_stay(path):
    assert current_path(path) == path


def test_tasks_are_built_from_them():
    loss = {"class_path": "dyvision.tasks.losses.OHEMLoss", "init_args": {"threshold": 0.6}}
    task = SegmentationTask("mobilenetv2_035", head="fcn", num_classes=2, loss=loss)
    assert task.hparams.loss == loss and type(task.criterion).__name__ == "OHEMLoss"
    # for a function by path class 0 is the background, as in torchvision's detectors
    head = {"class_path": f"{HEADS}.detection_rcnn.build_faster_rcnn", "init_args": {"fpn_channels": 16}}
    detector = DetectionTask("mobilenetv2_035", head=head, num_classes=2).eval()
    assert len(detector([torch.rand(3, 64, 64)])) == 1
