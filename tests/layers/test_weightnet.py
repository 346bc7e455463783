"""If these fail, WeightNet's kernels are not those of its grouped layer, or a block does not share one vector."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dyvision
from dyvision.backbones.published.weightnet_shufflenetv2 import (
    REPEATS,
    STAGES,
    WeightNetShuffleNetV2,
    WeightNetShuffleUnit,
)
from dyvision.checkpoints.methods.weightnet import build_layer, layer_state
from dyvision.layers.weightnet import WeightNetConv2d

# in, out, kernel, groups, M, G given, G used
CASES = [
    (6, 10, 3, 1, 2, None, 2),
    (6, 10, (1, 3), 2, 2, 1, 1),
    (6, 10, 1, 1, 8, 2, 2),
    (6, 9, 3, 3, 6, 3, 3),
    (6, 12, 3, 2, 2, None, 1),  # 27 numbers do not divide into two
    (6, 6, 3, 6, 4, 2, 1),  # depthwise
    (6, 6, 2, 6, 2, None, 1),
]


def build(case, **kwargs) -> WeightNetConv2d:
    inputs, outputs, kernel, groups, multiplier, given, _ = case
    layer = WeightNetConv2d(
        inputs, outputs, kernel, groups=groups, multiplier=multiplier, generator_groups=given, **kwargs
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return layer


def by_hand(layer: WeightNetConv2d, sample: torch.Tensor) -> torch.Tensor:
    """One sample, the kernel from a grouped 1x1 convolution as in the paper."""
    reduced = layer.branch.fc.weight @ sample.mean((1, 2)) + layer.branch.fc.bias
    activations = (layer.activation.fc.weight @ reduced + layer.activation.fc.bias).sigmoid()
    groups = layer.generator_groups * layer.out_channels
    numbers = F.conv2d(activations[None, :, None, None], layer.weight[..., None, None], groups=groups)
    kernel = numbers.view(layer.kernel_shape)
    return F.conv2d(sample[None], kernel, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_formula_written_out(case) -> None:
    layer = build(case).double()
    assert layer.generator_groups == case[-1]
    x = torch.randn(5, 6, 9, 8, dtype=torch.float64) + torch.randn(5, 6, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.stack([by_hand(layer, sample) for sample in x]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_starts_as_the_static_convolution_and_learns(case) -> None:
    inputs, outputs, kernel, groups, multiplier, given, _ = case
    conv = nn.Conv2d(inputs, outputs, kernel, groups=groups)
    layer = WeightNetConv2d.from_conv(conv, multiplier=multiplier, generator_groups=given)
    x = torch.randn(4, 6, 9, 8)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    # p is zero, so W1 learns from the second step on
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(x).square().mean().backward()
    assert [n for n, p in layer.named_parameters() if not p.grad.any()] == ["activation.fc.weight"]
    optimizer.step()
    layer.zero_grad()
    layer(x).square().mean().backward()
    assert [n for n, p in layer.named_parameters() if not p.grad.any()] == []


def test_gradients_are_those_of_finite_differences() -> None:
    layer = build((4, 4, 3, 1, 4, 2, 2)).double()
    x = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"multiplier": 3}, "multiplier=3 must be divisible by generator_groups=2"),
        ({"multiplier": 0}, "multiplier must be a positive int, got 0"),
        ({"groups": 2, "generator_groups": 2}, "generator_groups=2 must divide the 27 numbers of a kernel"),
        ({"reduced_channels": 0}, "reduced_channels must be a positive int, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        WeightNetConv2d(6, 10, 3, **arguments)


def test_width_of_the_shared_vector_is_that_of_the_block() -> None:
    layers = [WeightNetConv2d(12, 8, 1, branch=False), WeightNetConv2d(8, 6, 3, padding=1, branch=False)]
    assert WeightNetConv2d.make_shared_branch(12, layers)(torch.randn(2, 12, 5, 7))[1].shape == (2, 16)
    branch = WeightNetConv2d.make_shared_branch(512, layers)
    first, second = branch(torch.randn(2, 512, 5, 7))
    assert first is second
    assert first.shape == (2, 32)
    assert layers[1](layers[0](torch.randn(2, 12, 5, 7), first), second).shape == (2, 6, 5, 7)
    with pytest.raises(ValueError, match="branch=False"):
        layers[0](torch.randn(2, 12, 5, 7))


def test_dynamize_shares_one_vector_per_block_and_keeps_the_function() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(320, 8, 1), nn.Conv2d(8, 320, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.conv2(torch.relu(self.conv1(x)))

    model, x = nn.Sequential(nn.Conv2d(3, 320, 1), nn.Sequential(Block(), Block())), torch.randn(2, 3, 5, 7)
    expected = model(x)
    dyvision.dynamize(model, "weightnet", policy=["1.*.conv?"])
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    assert model[1][0].coefficient_branch.fc.out_features == 20
    assert model[1][0].conv2.branch is None


# parameters of the official code
@pytest.mark.parametrize(
    ("width", "parameters"), [("0.5", 1463928), ("1.0", 2435832), ("1.5", 3915344), ("2.0", 6198068)]
)
def test_shufflenets_have_the_published_parameters(width, parameters) -> None:
    with torch.device("meta"):
        model = WeightNetShuffleNetV2(width)
    assert sum(p.numel() for p in model.parameters()) == parameters


def unit_by_hand(unit: WeightNetShuffleUnit, x: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    left = right = x
    if unit.split:
        left, right = x.view(batch, channels // 2, 2, height, width).unbind(2)
    reduced = unit.coefficient_branch.fc(right.mean((2, 3)))
    right = unit.bn1(unit.conv1(right, reduced)).relu()
    right = unit.bn3(unit.conv3(unit.bn2(unit.conv2(right, reduced)), reduced)).relu()
    if not unit.split:
        left = unit.proj_bn2(unit.proj_conv2(unit.proj_bn1(unit.proj_conv1(left, reduced)), reduced)).relu()
    return torch.cat((left, right), 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_unit_is_the_one_of_the_paper(stride) -> None:
    unit = build_layer("ShuffleV2Block", {"inp": 8, "oup": 20, "mid_channels": 6, "ksize": 5, "stride": stride}, {})
    unit.eval()
    x = torch.randn(3, 16 if stride == 1 else 8, 9, 7)
    output = unit(x)
    assert output.shape == (3, 20, *((9, 7) if stride == 1 else (5, 4)))
    torch.testing.assert_close(output, unit_by_hand(unit, x))


def test_shufflenet_is_a_backbone() -> None:
    name = "weightnet_shufflenetv2_x0_5"
    assert name in dyvision.list_backbones()
    backbone = dyvision.create_backbone(name, output_stride=16, in_chans=4)
    assert backbone.feature_info.reduction() == [4, 8, 16, 16]
    maps = backbone(torch.randn(2, 4, 64, 96))
    assert [m.shape[1:] for m in maps] == [(24, 16, 24), (48, 8, 12), (96, 4, 6), (192, 4, 6)]
    sum(m.square().mean() for m in maps).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
    assert dyvision.create_model(name, num_classes=7).eval()(torch.randn(1, 3, 65, 33)).shape == (1, 7)
    assert WeightNetShuffleNetV2("2.0").drop_rate == 0.2
    with pytest.raises(ValueError, match=r"width must be one of 0\.5"):
        WeightNetShuffleNetV2("0.75")


# official module: ours
UNIT = {"reduce": "coefficient_branch.fc", "bn_proj_1": "proj_bn1", "bn_proj_2": "proj_bn2"}
UNIT |= {f"bn{i}": f"bn{i}" for i in (1, 2, 3)}
for _official, _own in {"wnet_proj_": "proj_conv", "wnet": "conv"}.items():
    for _i in (1, 2, 3) if _own == "conv" else (1, 2):
        UNIT |= {f"{_official}{_i}.wn_fc1": f"{_own}{_i}.activation.fc", f"{_official}{_i}.wn_fc2": f"{_own}{_i}"}


def in_megengines_shape(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name.endswith("wn_fc2.weight"):  # [groups, outputs per group, inputs per group, 1, 1]
        return tensor.view(4, -1, tensor.shape[1], 1, 1)
    if name.startswith("classifier") or tensor.ndim == 4 or tensor.ndim == 0:
        return tensor
    return tensor.view(1, -1, 1, 1) if tensor.ndim == 1 else tensor[..., None, None]


def test_official_network_translates() -> None:
    ours = build_layer("ShuffleNetV2", {"model_size": "0.5x", "num_classes": 5}, {})
    modules = {"first_conv.0": "conv1.0", "first_conv.1": "conv1.1", "conv_last.0": "conv5.0", "conv_last.1": "conv5.1"}
    modules["classifier.0"] = "fc"
    units = [f"{stage}.{index}" for stage, count in zip(STAGES, REPEATS, strict=True) for index in range(count)]
    for index, unit in enumerate(units):
        modules |= {f"features.{index}.{official}": f"{unit}.{own}" for official, own in UNIT.items()}
    state = ours.state_dict()
    official = {}
    for theirs, own in modules.items():
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if f"{own}.{name}" in state:
                official[f"{theirs}.{name}"] = in_megengines_shape(f"{theirs}.{name}", state[f"{own}.{name}"])
    assert len(official) == len(state)
    translated = layer_state(official)
    for name, tensor in state.items():
        torch.testing.assert_close(translated[name], tensor, rtol=0, atol=0)
    with pytest.raises(ValueError, match="official_class must be WeightNet, "):
        build_layer("Conv2d", {}, {})
