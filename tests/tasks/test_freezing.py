"""If these failed, a frozen backbone would drift, or its coefficient branches would never learn."""

from __future__ import annotations

import pytest
import torch

from dyvision.layers import CoefficientBranch
from dyvision.tasks import ClassificationTask, DetectionTask, SegmentationTask

BACKBONE = "mobilenetv2_035"


def _tasks(**options):
    yield ClassificationTask(BACKBONE, "dyconv", num_classes=3, **options)
    yield SegmentationTask(BACKBONE, "dcd", head="fcn", num_classes=3, **options)
    yield DetectionTask(BACKBONE, "odconv", head="fcos", fpn_channels=16, num_classes=3, **options)


def _branch_names(backbone):
    names = set()
    for name, module in backbone.named_modules():
        if isinstance(module, CoefficientBranch):
            names |= {f"{name}.{key}" for key in module.state_dict()}
    return names


@pytest.mark.parametrize("index", range(3), ids=["classification", "segmentation", "detection"])
def test_only_heads_and_branches_are_trained(index):
    task = list(_tasks(freeze_backbone=True))[index]
    backbone = task.backbone_network
    branches = _branch_names(backbone)
    in_backbone = {id(parameter) for parameter in task.backbone_parameters()}
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad and id(p) in in_backbone}
    assert trained
    assert trained <= branches
    assert any(p.requires_grad for p in task.parameters() if id(p) not in in_backbone)


@pytest.mark.parametrize("built_in_setup", [False, True])
@pytest.mark.parametrize("task_class", [ClassificationTask, SegmentationTask])
def test_a_fit_leaves_the_frozen_tensors_as_they_were(make_data, make_trainer, task_class, built_in_setup):
    torch.manual_seed(0)
    head = {"head": "fcn"} if task_class is SegmentationTask else {}
    classes = {} if built_in_setup else {"num_classes": 3}
    options = {"freeze_backbone": True, "lr": 0.01, "warmup_steps": 0, **head, **classes}
    data = make_data("segmentation" if head else "classification")
    task = task_class(BACKBONE, "dyconv", **options)
    start = {}

    def remember(trainer, module):
        start.update({name: tensor.clone() for name, tensor in module.backbone_network.state_dict().items()})

    from lightning.pytorch.callbacks import LambdaCallback

    make_trainer(max_epochs=2, callbacks=[LambdaCallback(on_train_start=remember)]).fit(task, datamodule=data)
    state = task.backbone_network.state_dict()
    branches = _branch_names(task.backbone_network)
    classifier = {name for name in state if name.startswith("classifier")}
    changed = {name for name in state if not torch.equal(state[name], start[name])}
    assert changed & branches
    assert changed <= branches | classifier


def test_freeze_norm_in_every_task():
    for task in _tasks(freeze_norm=True):
        task.train()
        branches = [m for m in task.backbone_network.modules() if isinstance(m, CoefficientBranch)]
        free = {id(module) for branch in branches for module in branch.modules()}
        norms = [m for m in task.backbone_network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert all(norm.training == (id(norm) in free) for norm in norms)
        assert all(parameter.requires_grad for parameter in task.backbone_network.parameters())
