"""What a convolution has beside its weight survives ``dynamize``, or is reported in one warning."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.detection import maskrcnn_resnet50_fpn, retinanet_resnet50_fpn

from dyvision import dynamize, list_layers
from dyvision.layers import CoefficientBranch, DyConv2d, DynamicConv2d

DYNAMIC = [name for name in list_layers() if name != "static"]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layer", DYNAMIC)
def test_frozen_kernels_stay_frozen_and_branches_learn(layer, kernel) -> None:
    conv = nn.Conv2d(20, 24, kernel).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = dynamize(nn.Sequential(conv), layer, policy="all")[0]
    kernels, biases = made.kernels_and_biases()
    assert not any(parameter.requires_grad for parameter in kernels + biases)
    held = {id(parameter) for parameter in kernels}
    for branch in made.modules():
        if isinstance(branch, CoefficientBranch):
            assert all(p.requires_grad for p in branch.parameters() if id(p) not in held)
    only_weight = nn.Conv2d(20, 24, kernel)
    only_weight.weight.requires_grad_(False)
    made = dynamize(nn.Sequential(only_weight), layer, policy="all")[0]
    assert made.bias is None or made.bias.requires_grad


@pytest.mark.parametrize("layer", list_layers())
def test_memory_format_type_and_mode_are_kept(layer) -> None:
    conv = nn.Conv2d(20, 24, 3, dtype=torch.float64).to(memory_format=torch.channels_last).eval()
    made = dynamize(nn.Sequential(conv), layer, policy="all" if layer != "static" else None)[0]
    assert not made.training and all(p.dtype == torch.float64 for p in made.parameters())
    for parameter in made.parameters(recurse=False):
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)


def test_hooks_and_ties_are_one_warning() -> None:
    first, second = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    second.weight = first.weight
    first.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"drops the hooks of 0; the weights that 0, 1 share") as caught:
        dynamize(nn.Sequential(first, second), "dyconv", policy="all")
    assert len(caught) == 1


def test_convolutions_with_a_computed_weight_stay_and_are_named() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, input):
            return super().forward(input - input.mean())

    pruned = nn.Conv2d(8, 8, 3)
    prune.l1_unstructured(pruned, "weight", 0.5)
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3), parametrizations.weight_norm(nn.Conv2d(8, 8, 3)), pruned, Standardised(8, 8, 3)
    )
    with pytest.warns(
        UserWarning, match=r"leaves 3 convolutions static.*1 \(parametrized.*2 \(.*prune.*3 \(Standardised"
    ):
        dynamize(model, "odconv", policy="all")
    assert [isinstance(child, DynamicConv2d) for child in model] == [True, False, False, False]
    with pytest.raises(ValueError, match="prune"):
        dynamize(nn.Sequential(pruned), "odconv", policy="all")
    with pytest.raises(ValueError, match="lazy"):
        dynamize(nn.Sequential(nn.LazyConv2d(8, 3)), "odconv", policy="all")


def test_a_bare_convolution_becomes_a_layer() -> None:
    conv, x = nn.Conv2d(8, 12, 3), torch.randn(2, 8, 9, 9)
    layer = dynamize(conv, "dyconv", num_kernels=2)
    assert isinstance(layer, DyConv2d)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="dynamic already: the model itself"):
        dynamize(layer, "dyconv")


def test_the_second_time_it_says_what_is_dynamic_already() -> None:
    model = dynamize(nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(3))), "dyconv")
    with pytest.raises(ValueError, match=r"2 are dynamic already: 1 \(DyConv2d\), 2 \(DyConv2d\)"):
        dynamize(model, "dyconv")
    with pytest.raises(ValueError, match="1 matches but is dynamic already"):
        dynamize(model, "odconv", policy="1")
    with pytest.warns(UserWarning, match="2 are dynamic already"):
        dynamize(model, "odconv", policy="all")


@pytest.mark.parametrize("build", [maskrcnn_resnet50_fpn, retinanet_resnet50_fpn])
def test_predictors_of_detectors_stay_static(build) -> None:
    with torch.device("meta"):
        model = dynamize(build(weights=None, weights_backbone=None, num_classes=3), "se", policy="all")
    dynamic = {name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)}
    assert dynamic and not any(part in name for name in dynamic for part in ("cls_logits", "bbox_", "mask_fcn_logits"))


@pytest.mark.parametrize(
    "register",
    [
        lambda conv: conv.register_forward_hook(lambda *_: None),
        lambda conv: conv.register_forward_pre_hook(lambda *_: None),
        lambda conv: conv.register_full_backward_hook(lambda *_: None),
        lambda conv: conv.register_full_backward_pre_hook(lambda *_: None),
        lambda conv: conv.register_load_state_dict_post_hook(lambda *_: None),
        lambda conv: conv.weight.register_hook(lambda grad: 2 * grad),
        lambda conv: conv.bias.register_hook(lambda grad: 2 * grad),
        lambda conv: conv.weight.register_post_accumulate_grad_hook(lambda parameter: None),
        lambda conv: conv.register_buffer("scale", torch.ones(8)),
        lambda conv: conv.register_parameter("scale", nn.Parameter(torch.ones(8))),
        lambda conv: conv.add_module("adapter", nn.Identity()),
    ],
)
@pytest.mark.parametrize("layer", ["dyconv", "kernelwarehouse", "condconv"])
def test_what_is_dropped_is_told(layer, register) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    register(model[1])
    with pytest.warns(UserWarning, match=r"drops the .* of 1$") as caught:
        dynamize(model, layer, policy="all")
    assert len(caught) == 1


@pytest.mark.parametrize("layer", DYNAMIC)
def test_attributes_of_convolutions_and_parameters_are_kept(layer) -> None:
    model = nn.Sequential(nn.Conv2d(20, 24, 3), nn.Conv2d(24, 20, 3))
    model[1].index, model[1].type = 7, "ultralytics.Conv"
    model[1].weight.lr_scale, model[1].bias.no_weight_decay = 0.1, True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = dynamize(model, layer, policy="all")[1]
    kernels, biases = made.kernels_and_biases()
    assert (made.index, made.type) == (7, "ultralytics.Conv")
    assert all(kernel.lr_scale == 0.1 for kernel in kernels) and all(bias.no_weight_decay for bias in biases)


@pytest.mark.parametrize("layer", DYNAMIC)
def test_a_convolution_with_a_replaced_forward_stays_as_it_is(layer) -> None:
    model, x = nn.Sequential(nn.Conv2d(20, 20, 3), nn.Conv2d(20, 20, 3)), torch.randn(2, 20, 9, 8)
    plain = model[1].forward
    model[1].forward = lambda x: plain(x) * 3
    expected = model(x)
    with pytest.warns(UserWarning, match=r"leaves 1 convolutions static.*: 1 \(a method is replaced on the instance"):
        dynamize(model, layer, policy="all")
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="a method is replaced on the instance"):
        dynamize(model[1], layer)


class BasicBlock(nn.Module):
    """A residual block by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.index = 5

    def forward(self, x):
        return x + self.conv2(self.conv1(x))


@pytest.mark.parametrize("layer", ["condconv", "dynet", "weightnet"])
def test_blocks_keep_hooks_replaced_methods_and_attributes(layer) -> None:
    model, x, seen = nn.Sequential(*(BasicBlock() for _ in range(4))), torch.randn(2, 8, 6, 6), []
    model[0].register_forward_hook(lambda *_: seen.append("block"))
    model[1].conv1.register_forward_hook(lambda *_: seen.append("container"))
    plain = model[2].forward
    model[2].forward = lambda x: plain(x) * 3
    expected = model(x)
    with pytest.warns(UserWarning, match="3 blocks.*hooks or a replaced method|has hooks or a replaced method"):
        dynamize(model, layer, policy="blocks")
    seen.clear()
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
    assert seen == ["block", "container"]
    assert isinstance(model[3], torch.fx.GraphModule) and model[3].index == 5


class ReadsWeight(nn.Module):
    """Standardises the weight of its convolution itself, and calls another."""

    def __init__(self, part: str = "weight") -> None:
        super().__init__()
        self.read, self.called = nn.Sequential(nn.Conv2d(20, 20, 1)), nn.Conv2d(20, 20, 1)
        self.part, self.calls = part, 0

    def forward(self, x):
        self.calls += 1
        self.last = x
        own = getattr(self.read[0], self.part)
        return self.called(x) * own.mean()


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("layer", DYNAMIC)
def test_a_convolution_whose_weight_a_forward_reads_stays_static(layer, part) -> None:
    model, x = nn.Sequential(nn.Conv2d(20, 20, 1), ReadsWeight(part)), torch.randn(2, 20, 5, 4)
    expected = model(x)
    with pytest.warns(UserWarning, match=r"1\.read\.0 \(ReadsWeight\.forward reads its weight or bias itself\)"):
        dynamize(model, layer, policy="all")
    assert isinstance(model[1].called, DynamicConv2d) and type(model[1].read[0]) is nn.Conv2d
    assert model[1].calls == 1 and isinstance(model[1].last, torch.Tensor)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"no convolution that can become dynamic; 1\.read\.0: ReadsWeight\.forward"):
        dynamize(model, layer, policy="1.read.0")
