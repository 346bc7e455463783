"""If these fail, blocks do not share one branch, or break where other modules work (copy, pickle, compile)."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dyvision.backbones import create_backbone, create_model, dynamize
from dyvision.layers import CoefficientBranch, DynamicConv2d, get_layer, list_layers

SHARING = [name for name in list_layers() if getattr(get_layer(name), "shares_coefficients", False)]


def branches(model):
    found = {name: module for name, module in model.named_modules() if isinstance(module, CoefficientBranch)}
    # each of WeightNet's layers activates what the block's branch reduced
    return {name: module for name, module in found.items() if not name.endswith(".activation")}


@pytest.fixture(params=SHARING)
def model(request):
    network = create_model("mobilenetv2_035", layer=request.param, num_classes=5, policy="blocks").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return network


def test_one_branch_per_block(model):
    blocks = [f"blocks.{stage}.{i}" for stage, depth in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(depth)]
    assert sorted(branches(model)) == sorted(f"{block}.coefficient_branch" for block in blocks)
    for block in blocks:
        assert type(model.get_submodule(block)).__name__ in ("InvertedResidual", "DepthwiseSeparableConv")


@pytest.mark.parametrize("layer", SHARING)
@pytest.mark.parametrize("network", ["regnety_002", "shufflenetv2_050", "test_convnext", "test_resnet", "test_byobnet"])
def test_blocks_of_every_family_are_shared(network, layer):
    static = create_model(network).state_dict()
    dynamic = create_model(network, layer=layer, policy="blocks")
    assert branches(dynamic) and all(name.endswith("coefficient_branch") for name in branches(dynamic))
    layers = tuple(f"{name}." for name, m in dynamic.named_modules() if isinstance(m, DynamicConv2d))
    kept = [key for key in static if not key.startswith(layers)]
    names = [key for key in dynamic.state_dict() if not key.startswith((*layers, *branches(dynamic)))]
    assert names == kept


def test_coefficients_come_from_the_input_of_the_block(model):
    block = model.blocks[2][1]
    seen = {}
    block.coefficient_branch.register_forward_hook(lambda m, args, out: seen.update(input=args[0], output=out))
    block.conv_pw.register_forward_pre_hook(lambda m, args: seen.update(first=args[1]))
    block.conv_pwl.register_forward_pre_hook(lambda m, args: seen.update(last=args[1]))
    x = torch.randn(2, block.conv_pw.in_channels, 6, 5)
    block(x)
    assert torch.equal(seen["input"], x)
    assert seen["first"] is seen["output"][0] and seen["last"] is seen["output"][-1]


def test_copies_and_pickles_compute_the_same(model):
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved):
        torch.testing.assert_close(other(x), expected)
        assert list(other.state_dict()) == list(model.state_dict())
        other.load_state_dict(model.state_dict())
    twice = pickle.loads(pickle.dumps(copy.deepcopy(copy.deepcopy(model))))
    torch.testing.assert_close(twice(x), expected)


def test_copies_are_independent(model):
    other = copy.deepcopy(model)
    assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}


def test_checkpointed_blocks_have_the_same_gradients(model):
    model.train()
    block = model.blocks[2][1].eval()
    x = torch.randn(2, block.conv_pw.in_channels, 6, 5)
    gradients = []
    for run in (block, lambda value: checkpoint(block, value, use_reentrant=False)):
        block.zero_grad()
        run(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in block.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("layer", SHARING)
def test_torch_export(layer):
    backbone = create_backbone("test_resnet", layer=layer, policy="blocks").eval()
    x = torch.randn(2, 3, 64, 64)
    program = torch.export.export(backbone, (x,))
    for a, b in zip(program.module()(x), backbone(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layer", SHARING)
def test_torch_compile(layer):
    backbone = create_backbone("test_resnet", layer=layer, policy="blocks").eval()
    compiled = torch.compile(backbone, fullgraph=True)
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(compiled(x), backbone(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class _Block(nn.Module):
    """Two convolutions; subclasses say how they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        return self.conv2(self.conv1(x))


class PlainBlock(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("unused", nn.Parameter(torch.ones(1)))
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)


class TrainingBlock(_Block):
    def forward(self, x):
        return F.dropout(self.conv2(self.conv1(x)), 0.5, self.training)


class DataBlock(_Block):
    def forward(self, x):
        return self.conv2(self.conv1(x)) if x.mean() > 0 else self.conv1(x)


class TypeBlock(_Block):
    def forward(self, x):
        return self.conv2(self.conv1(x)) if isinstance(x, torch.Tensor) else self.conv1(self.conv2(x))


class ListBlock(_Block):
    def forward(self, x):
        return self.conv2(self.conv1(x[0])) + x[1]


class DepthBlock(_Block):
    def forward(self, x):
        if self.training and torch.rand(()) < 0.5:
            return x
        return x + self.conv2(self.conv1(x))


class CountBlock(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.steps += 1
        return self.conv2(self.conv1(x))


@pytest.mark.parametrize("layer", SHARING)
@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (TrainingBlock, "training and evaluation mode"),
        (DataBlock, "cannot trace"),
        (TypeBlock, "computes something else"),
        (DepthBlock, "draws random numbers"),
        (CountBlock, "changes calls, steps"),
    ],
)
def test_blocks_that_cannot_be_rewritten_keep_own_branches(block, reason, layer):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), block()).eval()
    x = torch.randn(2, 3, 9, 8)
    expected = model(x)
    with pytest.warns(UserWarning, match=f"keep a branch each.*{reason}"):
        dynamize(model, layer)
    assert type(model[1]) is block and len(branches(model)) == 2
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", SHARING)
def test_a_block_that_takes_a_list_keeps_own_branches(layer):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 6, 3), ListBlock()

        def forward(self, x):
            return self.block([self.stem(x), self.stem(-x)])

    model, x = Twice().eval(), torch.randn(2, 3, 9, 8)
    expected = model(x)
    with pytest.warns(UserWarning, match="indexes its input"):
        dynamize(model, layer)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_looking_at_a_block_changes_no_numbers():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), CountBlock(), DepthBlock())
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="keep a branch each"):
        dynamize(model, SHARING[0], preserve_outputs=False)
    assert (model[1].calls, int(model[1].steps)) == (0, 0)


@pytest.mark.parametrize("layer", SHARING)
def test_everything_a_block_owns_is_kept(layer):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), PlainBlock())
    dynamize(model, layer)
    assert {"1.unused", "1.count"} <= set(model.state_dict()) and "1.scratch" not in model.state_dict()
    assert model[1].scratch.shape == (1,) and list(branches(model)) == ["1.coefficient_branch"]


def test_other_layers_have_a_branch_each():
    model = create_model("mobilenetv2_035", layer="dyconv", policy="blocks")
    assert len(branches(model)) == sum(isinstance(m, DynamicConv2d) for m in model.modules()) == 50
