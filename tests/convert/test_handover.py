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
