"""If these fail, a dynamic classifier computes something else than its paper's, or cannot replace a linear one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyvision import create_model
from dyvision.backbones.classifier import replace_classifier
from dyvision.layers.classifier import condconv_classifier, dcd_classifier


def shake(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize(("features", "classes"), [(1280, 10), (512, 1000), (2051, 3)])
def test_dcd_classifier_has_rank_and_width_32_and_its_formula(features, classes) -> None:
    classifier = shake(dcd_classifier(features, classes)).double()
    conv, x = classifier.conv, torch.randn(6, features, dtype=torch.float64)
    classifier(x)  # statistics that differ from 0 and 1
    classifier.eval()
    assert conv.conv_q.weight.shape == (32, features, 1, 1)
    assert conv.branch.gate.weight.shape == (32, 32)

    def hs2(z):
        return (z + 3).clamp(0, 6) / 3

    z = x @ conv.branch.squeeze.weight.T
    e = z * hs2(z @ conv.branch.gate.weight.T)
    phi = (e @ conv.branch.fc_phi.weight.T).view(-1, 32, 32)

    def norm(bn, u):
        return (u - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias

    u = norm(conv.bn1, x @ conv.conv_q.weight[:, :, 0, 0].T)
    u = norm(conv.bn2, torch.einsum("bij,bj->bi", phi, u)) + u
    linear = x @ conv.weight[:, :, 0, 0].T + conv.bias
    expected = hs2(e @ conv.branch.fc_scale.weight.T) * linear + u @ conv.conv_p.weight[:, :, 0, 0].T
    torch.testing.assert_close(classifier(x), expected)


def test_condconv_classifier_has_its_formula_and_no_bias() -> None:
    classifier = shake(condconv_classifier(20, 7, num_kernels=3))
    conv, x = classifier.conv, torch.randn(5, 20)
    routing = torch.sigmoid(x @ conv.branch.fc.weight.T + conv.branch.fc.bias)
    expected = torch.einsum("bk,koi,bi->bo", routing, conv.weight[..., 0, 0], x)
    torch.testing.assert_close(classifier(x), expected)
    assert conv.bias is None
    assert (classifier.in_features, classifier.out_features) == (20, 7)


@pytest.mark.parametrize(("layer", "options"), [("dcd", {}), ("condconv", {"num_kernels": 3})])
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_035"])
def test_create_model_with_a_dynamic_classifier(name, layer, options) -> None:
    x = torch.randn(2, 3, 64, 64)
    model = create_model(name, layer, 5, dynamic_classifier=True, **options)
    assert model(x).shape == (2, 5)
    model(x).sum().backward()
    torch.manual_seed(0)
    static = create_model(name, num_classes=5).eval()
    torch.manual_seed(0)
    same = create_model(name, layer, 5, dynamic_classifier=True, preserve_outputs=True, **options).eval()
    torch.testing.assert_close(same(x), static(x), rtol=1e-4, atol=1e-4)


def test_half_precision_classifiers_run() -> None:
    for classifier in (dcd_classifier(16, 4), condconv_classifier(16, 4)):
        assert classifier.to(torch.bfloat16)(torch.randn(3, 16).bfloat16()).dtype is torch.bfloat16


def test_what_has_no_dynamic_classifier_says_so() -> None:
    with pytest.raises(ValueError, match="layer 'odconv' has no dynamic classifier, only condconv, dcd"):
        create_model("test_resnet", "odconv", dynamic_classifier=True)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        create_model("test_resnet", "dcd", 0, dynamic_classifier=True)
    with pytest.raises(ValueError, match="Sequential has no get_classifier"):
        replace_classifier(nn.Sequential(nn.Linear(3, 2)), "dcd")
    headless = create_model("test_resnet", num_classes=0)
    with pytest.raises(ValueError, match="ResNet has a Identity"):
        replace_classifier(headless, "dcd")
