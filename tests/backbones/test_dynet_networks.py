"""If these fail, DyNet's published networks have another structure or cost, or do not work as backbones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dyvision.analysis import count_macs
from dyvision.backbones import create_backbone, create_model, dynamize, list_backbones
from dyvision.backbones.published.dynet_common import DyNetBlock
from dyvision.backbones.published.dynet_mobilenetv2 import DyNetInvertedResidual
from dyvision.backbones.published.dynet_mobilenetv3 import DyNetMobileNetV3
from dyvision.backbones.published.dynet_resnet import DyNetResNet
from dyvision.backbones.published.dynet_shufflenetv2 import DyNetShuffleNetV2
from dyvision.layers import CoefficientBranch, DCDConv2d, DynamicConv2d, DyNetConv2d
from tests.backbones.dynet_costs import cost_parts

FAMILIES = ("mobilenetv2", "mobilenetv3_small", "mobilenetv3_large", "shufflenetv2", "shufflenetv2_150")
FAMILIES += ("resnet18", "resnet50")
NAMES = [f"{kind}_{name}" for kind in ("dy", "fix") for name in FAMILIES]
SMALL = [name for name in NAMES if not name.endswith(("large", "150", "50"))]
DYNAMIC = [name for name in SMALL if name.startswith("dy_")]
MILLION, BINARY = 10**6, 2**20


def dynamic_layers(model):
    return [module for module in model.modules() if isinstance(module, DynamicConv2d)]


def blocks(model):
    return [module for module in model.modules() if isinstance(module, DyNetBlock)]


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return create_model(name, **kwargs)


def test_all_names_are_listed():
    assert set(NAMES) <= set(list_backbones("dy_*")) | set(list_backbones("fix_*"))
    classes = {"mobilenetv3_small": DyNetMobileNetV3, "resnet18": DyNetResNet, "shufflenetv2_150": DyNetShuffleNetV2}
    assert {name: type(on_meta(f"fix_{name}")) for name in classes} == classes


# the ResNets and ShuffleNets fit the published numbers in units of 2**20 only, as does the paper's static ResNet-18
@pytest.mark.parametrize(
    ("name", "unit", "convolutions", "total"),
    [
        ("mobilenetv2", MILLION, 129, 135),
        ("mobilenetv3_small", MILLION, None, 59),
        ("mobilenetv3_large", MILLION, None, 228),
        ("shufflenetv2", BINARY, 88, 92),
        ("shufflenetv2_150", BINARY, 171, None),
        ("resnet18", BINARY, 550, 567),
        ("resnet50", BINARY, 1075, 1119),
    ],
)
def test_published_multiply_adds(name, unit, convolutions, total):
    parts, fixed = cost_parts(on_meta(f"dy_{name}")), cost_parts(on_meta(f"fix_{name}"))
    assert fixed == (parts.convolutions, 0, 0)
    assert convolutions is None or parts.convolutions / unit == pytest.approx(convolutions, rel=0.012)
    assert total is None or sum(parts) / unit == pytest.approx(total, rel=0.01)


def test_unit_of_the_papers_static_resnet():
    assert count_macs(create_model("resnet18")) / BINARY == pytest.approx(1730, abs=0.5)


@pytest.mark.parametrize("name", DYNAMIC)
def test_parts_are_what_is_executed(name):
    model = create_model(name, num_classes=7, model_kwargs={"num_kernels": 3}).eval()
    assert sum(cost_parts(model, 64)) == count_macs(model, (1, 3, 64, 64))


def test_parts_of_one_layer():
    block = DyNetInvertedResidual(6, 12, num_kernels=2)
    kernels = 6 * 12 + 12 * 6 * 9 + 12 * 12
    assert cost_parts(block, 5) == (kernels * 25, 6 * 2 * 36, 2 * kernels)
    assert cost_parts(nn.Conv2d(2, 3, 1), 4) == (6 * 16, 0, 0)


def test_counting_leaves_the_model_alone():
    model = create_model("dy_resnet18", num_classes=2, model_kwargs={"num_kernels": 1})
    cost_parts(model, 32)
    assert model.training and next(model.parameters()).device.type == "cpu"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (nn.Conv2d(3, 4, 1), 0, "size must be a positive int, not 0"),
        (nn.Sequential(DCDConv2d(3, 4, 1)), 8, "0 is a DCDConv2d"),
        (nn.Linear(3, 4), 8, "Linear has no convolution"),
    ],
)
def test_parts_of_other_networks(model, size, message):
    with pytest.raises(ValueError, match=message):
        cost_parts(model, size)


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_of_a_block_is_dynamic_or_none(name):
    model = on_meta(name)
    in_blocks = [conv for block in blocks(model) for conv in dynamic_layers(block)]
    assert len(in_blocks) == len(dynamic_layers(model))
    branches = [module for module in model.modules() if isinstance(module, CoefficientBranch)]
    if name.startswith("fix"):
        assert not in_blocks and not branches
        return
    assert all(isinstance(conv, DyNetConv2d) and conv.num_kernels == 6 and conv.branch is None for conv in in_blocks)
    assert len(branches) == len(blocks(model))
    static = {
        key
        for block in blocks(model)
        for key, module in block.named_modules()
        if isinstance(module, nn.Conv2d) and not key.startswith("se.")
    }
    assert static == ({"shortcut.0", "shortcut.2"} if "shuffle" in name else set())


def test_widths():
    stages = on_meta("dy_mobilenetv2").feature_info
    assert [level["num_chs"] for level in stages] == [18, 24, 36, 96, 324]
    middle = on_meta("dy_mobilenetv2").stage5[0].conv2
    assert (middle.out_channels, middle.groups) == (162, 27)
    unit = on_meta("dy_shufflenetv2").stage3[1]
    assert (unit.conv1.in_channels, unit.conv2.out_channels, unit.conv2.groups) == (58, 58, 29)
    block = on_meta("dy_resnet50").layer2[0]
    assert [conv.out_channels for conv in dynamic_layers(block)] == [64, 64, 256, 256]
    assert block.dynet_branch.reduce.out_features == 128 // 4
    assert on_meta("fix_mobilenetv3_small").feature_info[-1]["num_chs"] == 576


@pytest.mark.parametrize("name", DYNAMIC)
def test_coefficients_come_from_the_input_of_the_block(name):
    model = create_model(name, num_classes=3).eval()
    block = blocks(model)[-1]
    seen = {}
    block.register_forward_pre_hook(lambda m, args: seen.update(block=args[0]))
    block.dynet_branch.register_forward_hook(lambda m, args, out: seen.update(input=args[0], output=out))
    received = {}
    for conv in dynamic_layers(block):
        conv.register_forward_pre_hook(lambda m, args: received.update({m: args[1]}))
    model(torch.randn(2, 3, 64, 64))
    channels = seen["input"].shape[1]
    assert torch.equal(seen["input"], seen["block"][:, -channels:])
    assert channels == seen["block"].shape[1] // (4 if "shuffle" in name else 1)
    assert {id(value) for value in received.values()} == {id(value) for value in seen["output"]}
    for conv, coefficients in received.items():
        assert coefficients.shape == (2, 6, conv.out_channels) and conv.num_kernels == 6


@pytest.mark.parametrize("name", SMALL)
def test_a_training_step(name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        assert [key for key, p in model.named_parameters() if not p.grad.any()] == []
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", DYNAMIC)
def test_kernels_start_like_static_ones(name):
    torch.manual_seed(0)
    dynamic, fixed = create_model(name), create_model(name.replace("dy_", "fix_"))
    twins = dict(fixed.named_modules())
    for key, module in dynamic.named_modules():
        if isinstance(module, DyNetConv2d):
            twin = twins[key]
            assert module.kernel_shape == tuple(twin.weight.shape)
            bound = twin.weight[0].numel() ** -0.5
            assert module.weight.abs().max() <= bound * 1.0001 and twin.weight.abs().max() <= bound * 1.0001
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", SMALL)
def test_maps_at_every_output_stride(name, output_stride):
    backbone = create_backbone(name, output_stride=output_stride).eval()
    info = backbone.feature_info
    assert info.reduction() == [min(r, output_stride) for r in (4, 8, 16, 32)]
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // r, 96 // r) for c, r in zip(info.channels(), info.reduction(), strict=True)
    ]
    assert all(m.isfinite().all() for m in backbone(torch.randn(1, 3, 97, 65)))


# without branch or squeeze-excite, which pool other positions
@pytest.mark.parametrize("name", ["fix_mobilenetv2", "fix_shufflenetv2", "fix_resnet18", "fix_resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_network_computes_the_same_at_common_positions(name, output_stride):
    plain = create_backbone(name, out_indices=5).eval()
    dilated = create_backbone(name, out_indices=5, output_stride=output_stride).eval()
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 65, 97)
    reductions = zip(plain.feature_info.reduction(), dilated.feature_info.reduction(), strict=True)
    for coarse, fine, (r, kept) in zip(plain(x), dilated(x), reductions, strict=True):
        torch.testing.assert_close(fine[..., :: r // kept, :: r // kept], coarse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("out_indices", [None, (0,), (3, 1)])
def test_every_parameter_of_a_backbone_is_used(name, out_indices):
    backbone = create_backbone(name, out_indices=out_indices)
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []
    assert {key.removeprefix("body.") for key in backbone.state_dict()} <= set(on_meta(name).state_dict())


@pytest.mark.parametrize("name", DYNAMIC)
def test_gradient_checkpointing_and_copies_change_nothing(name):
    backbone = create_backbone(name).train()
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for model, enable in ((backbone, False), (copy.deepcopy(backbone), True)):
        model.set_grad_checkpointing(enable)
        sum(m.square().mean() for m in model(x)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", DYNAMIC)
def test_torch_export(name):
    backbone = create_backbone(name, out_indices=(1, 2)).eval()
    x = torch.randn(2, 3, 64, 64)
    program = torch.export.export(backbone, (x,))
    for a, b in zip(program.module()(x), backbone(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("layer", ["condconv", "dcd"])
def test_another_layer_leaves_dynamic_convolutions_alone(name, layer):
    model = create_model(name, num_classes=3).eval()
    before = {key: id(module) for key, module in model.named_modules() if isinstance(module, DyNetConv2d)}
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    dynamize(model, layer, policy="all")
    after = {key: id(module) for key, module in model.named_modules() if isinstance(module, DyNetConv2d)}
    assert after == before and type(model.stem[0]) is not nn.Conv2d
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layer", ["condconv", "dcd", "dynet"])
@pytest.mark.parametrize("name", [name for name in SMALL if name.startswith("fix_")])
@pytest.mark.filterwarnings("error:.*keep a branch each")
def test_fixed_twins_take_any_layer(name, layer):
    static = create_model(name, num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = static(x)
    model = dynamize(copy.deepcopy(static), layer, policy="blocks")
    assert dynamic_layers(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)


def test_options():
    model = create_model("dy_mobilenetv2", model_kwargs={"num_kernels": 4}, num_classes=0, in_chans=1, drop_rate=0.2)
    assert {layer.num_kernels for layer in dynamic_layers(model)} == {4} and model.drop_rate == 0.2
    assert model.eval()(torch.randn(2, 1, 64, 64)).shape == (2, 1280)
    body = create_backbone("fix_resnet18", drop_path_rate=0.3).body
    assert body.layer4[1].drop_path.drop_prob == pytest.approx(0.3) and type(body.layer1[0].drop_path) is nn.Identity


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("dy_resnet18", pretrained=True), "no pretrained weights for dy_resnet18"),
        (lambda: create_model("dy_shufflenetv2", drop_path_rate=0.1), "dy_shufflenetv2 has no residual connections"),
        (
            lambda: create_model("fix_resnet18", model_kwargs={"num_kernels": 4}),
            "fix_resnet18 does not support num_ker",
        ),
        (lambda: create_model("dy_resnet18", model_kwargs={"num_kernels": 0}), "num_kernels must be a positive int"),
        (lambda: create_model("dy_resnet18", model_kwargs={"output_stride": 4}), "output_stride must be 8, 16 or 32"),
        (lambda: create_model("dy_resnet81"), "dy_resnet18"),
        (lambda: create_model("dy_resnet18", "dynet"), "selects none.*policy='all'"),
    ],
)
def test_wrong_arguments_say_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
