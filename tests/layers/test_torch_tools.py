"""PyTorch's own tools on dynamic layers: right, or refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor

from dyvision import dynamize, fuse
from dyvision.layers import get_layer, list_layers

DYNAMIC = [name for name in list_layers() if name != "static"]
#: those with one parameter for all their kernels; the others have kernels of several parts
WEIGHTED = [name for name in DYNAMIC if "weight" in dict(get_layer(name)(20, 24, 3).named_parameters())]


def build(name: str, inputs=20, outputs=24, kernel=3, spread=0.0, **kwargs) -> nn.Module:
    """A layer in evaluation mode, its coefficients away from their start."""
    layer = get_layer(name)(inputs, outputs, kernel, padding=kernel // 2, **kwargs).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += spread * torch.randn_like(parameter)
    return layer


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", list_layers())
def test_gradients_that_can_be_differentiated_again_are_the_same_gradients(name, kernel) -> None:
    layer = build(name, kernel=kernel, spread=0.1).double()
    x = torch.randn(2, 20, 5, 4, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    first, second = (
        torch.autograd.grad(layer(x).sin().sum(), inputs, create_graph=again, allow_unused=True)
        for again in (False, True)
    )
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", list_layers())
def test_hessian(name) -> None:
    layer, x = build(name, 3, 4, spread=0.1).double(), torch.randn(1, 3, 3, 2, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return layer(x).sin().sum()

    torch.testing.assert_close(torch.func.hessian(loss)(x), torch.autograd.functional.hessian(loss, x))


@pytest.mark.parametrize("name", list_layers())
def test_gradients_per_sample_of_a_functional_call(name) -> None:
    layer, x = build(name).double(), torch.randn(2, 20, 5, 4, dtype=torch.float64)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, (parameters, buffers), (x[None],)).square().sum()

    frozen = {key: value.detach() for key, value in parameters.items()}
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(frozen, x)
    expected = torch.autograd.grad(layer(x).square().sum(), list(parameters.values()), allow_unused=True)
    for key, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[key].sum(0), 0 * found[key][0] if gradient is None else gradient, msg=key)


@pytest.mark.parametrize("name", list_layers())
def test_checkpointing_recomputes_the_same(name) -> None:
    model = nn.Sequential(build(name), nn.ReLU(), build(name, 24, 20, 1)).train()
    x = torch.randn(2, 20, 5, 4)
    gradients = []
    for again in (False, True):
        own = copy.deepcopy(model)
        output = checkpoint(own, x, use_reentrant=False) if again else own(x)
        gradients.append(torch.autograd.grad(output.sum(), list(own.parameters()), allow_unused=True))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", DYNAMIC)
def test_torchs_own_fusion_is_refused(name) -> None:
    for layer in (build(name), build(name, kernel=1)):
        with pytest.raises(TypeError, match=f"{type(layer).__name__}.*dyvision\\.fuse"):
            fuse_conv_bn_eval(layer, nn.BatchNorm2d(24).eval())
        x = torch.randn(2, 20, 5, 4)
        torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, torch.nn.utils.weight_norm])
@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_weight_normed_layer_computes_the_same(name, norm) -> None:
    layer, x = build(name), torch.randn(2, 20, 5, 4)
    torch.testing.assert_close(norm(copy.deepcopy(layer))(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_pruned_layer_has_the_pruned_weights(name) -> None:
    layer, x = build(name), torch.randn(2, 20, 5, 4)
    prune.l1_unstructured(layer, "weight", 0.5)
    output = layer(x)
    prune.remove(layer, "weight")
    assert float((layer.weight == 0).double().mean()) == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(layer(x), output)


@pytest.mark.parametrize("name", DYNAMIC)
def test_torchvision_extracts_features_of_a_dynamic_network(name) -> None:
    model, x = dynamize(torchvision.models.resnet18(), name).eval(), torch.randn(1, 3, 33, 32)
    expected = {}
    model.layer2.register_forward_hook(lambda module, inputs, output: expected.update(layer2=output))
    found = create_feature_extractor(model, ["layer2"])(x)
    model(x)
    torch.testing.assert_close(found["layer2"], expected["layer2"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list_layers())
def test_fused_and_compiled_networks_take_empty_batches(name) -> None:
    model = nn.Sequential(
        build(name, bias=False), nn.BatchNorm2d(24), build(name, 24, 20, 1), nn.BatchNorm2d(20)
    ).eval()
    assert fuse(model, (2, 20, 8, 8))(torch.randn(0, 20, 5, 6)).shape == (0, 20, 5, 6)
    torch.compiler.reset()
    compiled = torch.compile(build(name), backend="eager")
    for batch in (3, 0, 2, 1):
        assert compiled(torch.randn(batch, 20, 5, 6)).shape == (batch, 24, 5, 6)


@pytest.mark.parametrize("name", ["dcd", "odconv", "sk"])
@pytest.mark.parametrize("kind", [BatchNormAct2d, nn.InstanceNorm2d, nn.SyncBatchNorm])
def test_other_norms_fuse_rightly(name, kind) -> None:
    layer, x = build(name), torch.randn(3, 20, 9, 8)
    for parent in list(layer.modules()):
        for key, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d) and type(norm) is not kind:
                setattr(parent, key, kind(norm.num_features).eval())
    model = nn.Sequential(layer, nn.BatchNorm2d(24)).eval()
    torch.testing.assert_close(fuse(model, (2, 20, 9, 8))(x), model(x), rtol=1e-4, atol=1e-4)
