"""dyvision's networks in torchvision's detectors and segmentation networks."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from dyvision.adapters.torchvision import fpn_backbone, segmentation_backbone
from dyvision.backbones import create_model
from dyvision.layers import CoefficientBranch

SIZES = {"min_size": 64, "max_size": 64, "num_classes": 3}
DENSE = {"returned_layers": (2, 3, 4), "extra_blocks": "p5"}
#: for speed
FEW = {"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 20}


@pytest.mark.parametrize(
    ("detector", "options"),
    [(FasterRCNN, FEW), (MaskRCNN, FEW), (RetinaNet, {}), (FCOS, {})],
)
def test_detectors(detector, options) -> None:
    torch.manual_seed(0)
    levels = {} if options else DENSE
    model = detector(fpn_backbone("test_resnet", "dcd", out_channels=32, **levels), **SIZES, **options).train()
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 64)]
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 8:40, 8:40] = 1
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    losses = model(images, [target | {"masks": masks}, target | {"masks": masks[:, :48]}])
    sum(losses.values()).backward()
    trained = [parameter.grad is not None for parameter in model.backbone.body.parameters()]
    assert all(trained) and trained
    with torch.no_grad():
        (first, second) = model.eval()(images)
    assert first["boxes"].shape[1:] == (4,) and second["scores"].ndim == 1


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("network", [DeepLabV3, FCN])
def test_segmentation(network, aux) -> None:
    head = DeepLabHead if network is DeepLabV3 else FCNHead
    backbone = segmentation_backbone("mobilenetv2_035", "dyconv", output_stride=16, aux=aux, in_chans=1)
    assert list(backbone.channels) == (["aux", "out"] if aux else ["out"])
    extra = FCNHead(backbone.channels["aux"], 3) if aux else None
    model = network(backbone, head(backbone.channels["out"], 3), extra).train()
    x = torch.randn(2, 1, 64, 64)
    outputs = model(x)
    assert {name: map.shape for name, map in outputs.items()} == {
        name: (2, 3, 64, 64) for name in (["out", "aux"] if aux else ["out"])
    }
    sum(map.mean() for map in outputs.values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert model.eval()(x[:1])["out"].shape == (1, 3, 64, 64)
    assert backbone(x)["out"].shape[-1] == 4


def test_levels_of_the_pyramid() -> None:
    levels = fpn_backbone("test_resnet", out_channels=16)(torch.rand(1, 3, 64, 64))
    assert [(name, level.shape[-1]) for name, level in levels.items()] == [
        *(("0", 16), ("1", 8), ("2", 4), ("3", 2)),
        ("pool", 1),
    ]
    own = fpn_backbone("test_convnext", returned_layers=[2, 4], extra_blocks=LastLevelP6P7(16, 16), out_channels=16)
    assert [level.shape[-1] for level in own(torch.rand(1, 3, 128, 128)).values()] == [16, 4, 2, 1]
    assert own.out_channels == 16
    none = fpn_backbone("test_resnet", returned_layers=[3], extra_blocks=None)(torch.rand(1, 3, 64, 64))
    assert [level.shape for level in none.values()] == [(1, 256, 4, 4)]


def frozen(backbone: nn.Module) -> set[str]:
    return {name.split(".")[0] for name, p in backbone.body.body.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("network", "trainable", "expected"),
    [
        ("test_resnet", 5, set()),
        ("test_resnet", 4, {"conv1", "bn1"}),
        ("test_resnet", 2, {"conv1", "bn1", "layer1", "layer2"}),
        ("test_resnet", 0, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
        ("test_convnext", 4, {"stem"}),
        ("test_convnext", 5, set()),
    ],
)
def test_frozen_layers(network, trainable, expected) -> None:
    assert frozen(fpn_backbone(network, trainable_layers=trainable)) == expected


def test_coefficient_branches_are_not_frozen() -> None:
    backbone = fpn_backbone("test_resnet", "odconv", trainable_layers=0).body
    branches = [module for module in backbone.modules() if isinstance(module, CoefficientBranch)]
    assert branches and all(p.requires_grad for branch in branches for p in branch.parameters())
    assert not backbone.body.layer1[0].conv1.weight.requires_grad


def test_kernels_that_a_trained_level_shares_are_not_frozen() -> None:
    backbone = fpn_backbone("test_resnet", "kernelwarehouse", trainable_layers=1).body.body
    assert all(parameter.requires_grad for parameter in backbone.layer4.parameters())
    assert not backbone.conv1[0].weight.requires_grad if isinstance(backbone.conv1, nn.Sequential) else True


def test_pretrained_freezes_as_torchvision_does(tmp_path) -> None:
    static = create_model("test_resnet")
    save_file(static.state_dict(), tmp_path / "resnet.safetensors")
    model = fpn_backbone("test_resnet", "odconv", pretrained=tmp_path / "resnet.safetensors").train()
    assert "layer1" in frozen(model) and "layer2" not in frozen(model)
    body = model.body.body
    assert not body.bn1.training and not body.layer4[0].bn1.training
    assert body.layer1[0].conv1.training
    torch.testing.assert_close(body.bn1.weight, static.bn1.weight)
    assert fpn_backbone("test_resnet", "odconv").train().body.body.bn1.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trainable_layers": 6}, "trainable_layers must be 0 to 5"),
        ({"returned_layers": [0]}, "returned_layers must be numbers from 1 to 4"),
        ({"returned_layers": []}, "returned_layers must be numbers from 1 to 4"),
        ({"extra_blocks": "p6"}, "extra_blocks must be"),
        ({"layer": "dcf"}, "unknown layer 'dcf' .did you mean"),
        ({"name": "test_resnt"}, "unknown backbone 'test_resnt' .did you mean"),
    ],
)
def test_wrong_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        fpn_backbone(**{"name": "test_resnet", **arguments})


@pytest.mark.parametrize(
    ("create", "given", "close"),
    [
        (fpn_backbone, "trainable_layer", "trainable_layers"),
        (fpn_backbone, "num_kernel", "num_kernels"),
        (segmentation_backbone, "output_strides", "output_stride"),
        (segmentation_backbone, "drop_path", "drop_path_rate"),
    ],
)
def test_misspelt_keywords_are_named(create, given, close) -> None:
    match = f"{create.__name__} has no argument {given!r} .did you mean {close!r}.*layer 'dyconv' are: num_kernels"
    with pytest.raises(TypeError, match=match):
        create("test_resnet", "dyconv", **{given: 1})
