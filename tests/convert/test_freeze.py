"""If these fail, frozen stages drift, or their coefficient branches never learn."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

import dyvision
from dyvision.layers import CoefficientBranch, list_layers
from dyvision.tasks import ClassificationTask, SegmentationTask

LAYERS = [name for name in list_layers() if name != "static"]


def _in_branches(model):
    return {id(p) for m in model.modules() if isinstance(m, CoefficientBranch) for p in m.parameters()}


def _step(model):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("layer", LAYERS)
def test_kernels_norms_and_statistics_stay_while_branches_learn(layer):
    torch.manual_seed(0)
    model = dyvision.create_model("test_resnet", layer=layer, policy="blocks")
    assert dyvision.freeze(model, "stem,layer1") is model
    free = _in_branches(model)
    stages = {name: p for name, p in model.named_parameters() if name.startswith(("stem.", "conv1", "bn1", "layer1"))}
    assert stages and all(p.requires_grad == (id(p) in free) for p in stages.values())
    assert all(p.requires_grad for name, p in model.named_parameters() if name.startswith(("layer3", "fc")))
    branches = {key for n, m in model.named_modules() if isinstance(m, CoefficientBranch) for key in _keys(n, m)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _step(model)
    kept = [name for name in before if name.startswith(("conv1", "bn1", "layer1")) and name not in branches]
    changed = [name for name in kept if not torch.equal(before[name], model.state_dict()[name])]
    assert kept and not changed
    others = [name for name in before if name.startswith("layer3") and name.endswith("running_mean")]
    assert others and any(not torch.equal(before[name], model.state_dict()[name]) for name in others)


def _kernel(layer):
    return layer.kernels_and_biases()[0][0]


def _keys(name, module):
    return [f"{name}.{key}" for key in module.state_dict()]


def test_norms_stay_in_evaluation_in_copies_too():
    model = dyvision.freeze(torchvision.models.resnet18(), ["layer1", "layer2.0.*"])
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.train()
        statistics = other.layer1[0].bn1.running_mean.clone()
        other(torch.randn(2, 3, 32, 32))
        assert torch.equal(other.layer1[0].bn1.running_mean, statistics)
        assert not other.layer2[0].bn1.training and other.layer2[1].bn1.training and other.bn1.training


def test_the_stem_is_what_comes_before_the_first_block():
    model = dyvision.freeze(torchvision.models.resnet18(), "stem")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["conv1.weight", "bn1.weight", "bn1.bias"]
    mobile = dyvision.freeze(dyvision.create_model("mobilenetv2_035", layer="condconv"), "stem, blocks.[01]")
    assert not any(p.requires_grad for p in mobile.conv_stem.parameters())
    assert not any(p.requires_grad for p in mobile.blocks[1].parameters())
    assert all(p.requires_grad for p in mobile.blocks[2].parameters())


def test_names_that_do_not_exist_list_those_that_do():
    model = torchvision.models.resnet18()
    with pytest.raises(ValueError, match=r"freeze='layer9': ResNet has no module of that name; it has stem.*layer1"):
        dyvision.freeze(model, "layer1,layer9")
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"blocks \(blocks\.0 to blocks\.6\)"):  # where one module holds all stages
        dyvision.freeze(timm.create_model("mobilenetv2_035"), "layer1")
    with pytest.raises(ValueError, match="layer9"):
        dyvision.dynamize(model, "dyconv", freeze="layer9")
    assert type(model.layer1[0].conv1) is nn.Conv2d


def test_dynamize_freezes():
    model = dyvision.dynamize(torchvision.models.resnet18(), "dyconv", freeze="stem,layer1")
    assert not _kernel(model.layer1[0].conv1).requires_grad and _kernel(model.layer2[0].conv1).requires_grad
    branches = [m for m in model.layer1.modules() if isinstance(m, CoefficientBranch)]
    assert branches and all(p.requires_grad for branch in branches for p in branch.parameters())


@pytest.mark.parametrize("task_class", [ClassificationTask, SegmentationTask])
def test_tasks_take_names_of_the_backbone(task_class):
    head = {"head": "fcn"} if task_class is SegmentationTask else {}
    task = task_class("mobilenetv2_035", "dyconv", num_classes=3, freeze="conv_stem,blocks.0", **head)
    frozen = [name for name, p in task.backbone_network.named_parameters() if not p.requires_grad]
    assert frozen and all("conv_stem" in name or "blocks.0." in name for name in frozen)
    assert not any("branch" in name for name in frozen)
    assert any("blocks.0." in name for name in frozen)
    with pytest.raises(ValueError, match="no module of that name"):
        task_class("mobilenetv2_035", "dyconv", num_classes=3, freeze=["layer1"], **head)
    with pytest.raises(ValueError, match="freeze=3"):
        task_class("mobilenetv2_035", "dyconv", num_classes=3, freeze=3, **head)
