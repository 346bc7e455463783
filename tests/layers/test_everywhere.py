"""Where ``nn.Conv2d`` works, a dynamic layer works or says by name why not."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from dyvision import fuse
from dyvision.layers import DynamicConv2d, DynamicMaskHead, get_layer, list_layers, register_layer, share_warehouses
from dyvision.layers.classifier import condconv_classifier, dcd_classifier

DYNAMIC = [name for name in list_layers() if name != "static"]
#: those with norms inside
NORMED = ["dcd", "odconv", "sk", "kernelwarehouse", "fdconv"]


def build(name: str, inputs=20, outputs=24, kernel=3, **kwargs) -> nn.Module:
    return get_layer(name)(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


def swap_norms(module: nn.Module, make) -> int:
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(module, name, make(child))
            count += 1
        else:
            count += swap_norms(child, make)
    return count


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 4), ((2, 3), (1, 2), 1)])
@pytest.mark.parametrize("name", list_layers())
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(name, kernel, stride, groups, training) -> None:
    layer = get_layer(name)(20, 24, kernel, stride, 1, groups=groups).train(training)
    x = torch.randn(0, 20, 9, 8, requires_grad=True)
    output = layer(x)
    assert output.shape == nn.Conv2d(20, 24, kernel, stride, 1, groups=groups)(x).shape
    output.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), parameter_name
    assert all(torch.isfinite(buffer).all() for buffer in layer.buffers())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with torch.no_grad():
        assert layer.double()(x.detach().double()).dtype == torch.float64


@pytest.mark.parametrize("name", list_layers())
def test_an_unbatched_map_is_a_batch_of_one(name) -> None:
    layer, x = build(name).eval(), torch.randn(20, 9, 8)
    torch.testing.assert_close(layer(x), layer(x[None])[0])


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_wrong_input_is_named_with_the_layer(name) -> None:
    layer = build(name)
    kind = type(layer).__name__
    for x, error, text in [
        (torch.randn(2, 7, 9, 8), ValueError, "expects 20 input channels, got 7"),
        (torch.randn(2, 20), ValueError, r"expects \[B, C, H, W\] or \[C, H, W\]"),
        (torch.ones(2, 20, 9, 8, dtype=torch.long), TypeError, "floating"),
        (torch.randn(2, 20, 0, 8), ValueError, "without pixels"),
        ([1, 2], TypeError, "expects a tensor"),
    ]:
        with pytest.raises(error, match=f"{kind}.*{text}"):
            layer(x)
    with pytest.raises(ValueError, match=f"{kind}.*less than the kernel's 5"):
        get_layer(name)(20, 24, 5)(torch.randn(2, 20, 3, 3))


MAKERS = {
    "group": lambda norm: nn.GroupNorm(1, norm.num_features),
    "no statistics": lambda norm: type(norm)(norm.num_features, track_running_stats=False),
    "not affine": lambda norm: type(norm)(norm.num_features, affine=False),
    "identity": lambda norm: nn.Identity(),
    "frozen": lambda norm: FrozenBatchNorm2d(norm.num_features) if "2d" in type(norm).__name__ else norm,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", NORMED)
def test_norms_inside_may_be_swapped(name, maker, dtype) -> None:
    layer = build(name)
    assert swap_norms(layer, MAKERS[maker])
    layer, x = layer.to(dtype), torch.randn(3, 20, 9, 8, dtype=dtype)
    assert layer(x).isfinite().all()
    assert layer.eval()(x).dtype == dtype


@pytest.mark.parametrize("kernel", [1, 3])
def test_dcd_folds_only_what_is_a_batch_norm_with_statistics(kernel) -> None:
    layer, x = build("dcd", kernel=kernel).double(), torch.randn(3, 20, 9, 8, dtype=torch.float64)
    for norm in (layer.bn1, layer.bn2):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    swap_norms(layer, MAKERS["group"])
    # nothing in it depends on the mode
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))
    model = nn.Sequential(layer).eval()
    torch.testing.assert_close(fuse(model, (2, 20, 9, 8))(x), model(x))


@pytest.mark.parametrize("name", ["dcd", "odconv"])
def test_a_batch_norm_without_affine_is_folded_rightly(name) -> None:
    layer, x = build(name).double(), torch.randn(3, 20, 9, 8, dtype=torch.float64)
    swap_norms(layer, lambda norm: MAKERS["not affine"](norm).double())
    for _ in range(3):
        layer(torch.randn(3, 20, 9, 8, dtype=torch.float64) * 2 + 1)
    model = nn.Sequential(layer).eval()
    torch.testing.assert_close(fuse(model, (2, 20, 9, 8))(x), model(x))


def spoil_and_reset(module: nn.Module) -> None:
    """What FSDP does: fresh memory may hold anything, then each module's own initialisation, parents first."""
    module.to_empty(device="cpu")
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else 1)
    for child in module.modules():
        if (
            next(child.parameters(recurse=False), None) is not None
            or next(child.buffers(recurse=False), None) is not None
        ):
            child.reset_parameters()


def sample_layers() -> dict[str, nn.Module]:
    layers = {name: build(name) for name in list_layers()}
    layers["dgc, pre-activation"] = build("dgc", pre_activation=True)
    layers["sk, activation"] = build("sk", activation=True)
    layers["dyconv, 30"] = build("dyconv", temperature=30.0)
    layers["kernelwarehouse, basis"] = nn.ModuleList(
        [build("kernelwarehouse", 8, 8, nonlocal_basis_ratio=0.5) for _ in "ab"]
    )
    share_warehouses({"": list(layers["kernelwarehouse, basis"])})
    layers["dcd classifier"], layers["condconv classifier"] = dcd_classifier(20, 5), condconv_classifier(20, 5)
    layers["condinst"] = DynamicMaskHead()
    return layers


@pytest.mark.parametrize("name", sample_layers())
def test_reset_parameters_initialises_everything_as_the_constructor(name) -> None:
    built, fresh = sample_layers()[name], copy.deepcopy(sample_layers()[name]).to("meta")
    spoil_and_reset(fresh)
    expected = {**dict(built.named_parameters()), **dict(built.named_buffers())}
    found = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        other = expected[key].float()
        if other.numel() < 2 or other.std() == 0 or not tensor.is_floating_point():
            torch.testing.assert_close(tensor.float(), other, msg=key)
        elif other.numel() > 200:
            assert float(tensor.detach().std() / other.detach().std()) == pytest.approx(1, abs=0.25), key


@pytest.mark.parametrize("name", list_layers())
def test_constructed_on_meta_everything_is(name) -> None:
    layer = build(name, device="meta")
    assert all(tensor.is_meta for tensor in [*layer.parameters(), *layer.buffers()])


@pytest.mark.parametrize("name", list_layers())
def test_symbolic_trace_takes_layers_as_leaves(name) -> None:
    model, x = nn.Sequential(build(name), nn.ReLU(), build(name, 24, 20, 1)).eval(), torch.randn(2, 20, 9, 8)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), model(x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), model(x))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", list_layers())
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace_is_right_at_other_sizes(name, kernel) -> None:
    layer = build(name, kernel=kernel).eval()
    traced = torch.jit.trace(layer, torch.randn(2, 20, 8, 8))
    x = torch.randn(3, 20, 11, 9)
    torch.testing.assert_close(traced(x), layer(x), rtol=1e-4, atol=1e-4)
    if isinstance(layer, DynamicConv2d):
        with pytest.raises(TypeError, match=type(layer).__name__):
            torch.jit.script(layer)


@pytest.mark.parametrize("name", list_layers())
def test_transforms_agree_with_plain_derivatives(name) -> None:
    layer = build(name, 3, 4).double().eval()
    x, tangent = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(2, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    _, pushed = torch.func.jvp(layer, (x,), (tangent,))
    jacobian = torch.autograd.functional.jacobian(layer, x)
    torch.testing.assert_close(pushed, torch.tensordot(jacobian, tangent, 4))
    torch.testing.assert_close(torch.func.jacrev(layer)(x), jacobian)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent, pushed)


@pytest.mark.parametrize(
    "name", [name for name in list_layers() if name != "drconv"]
)  # its gradient is straight-through
def test_second_derivatives(name) -> None:
    layer = build(name, 3, 4).double().eval()
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (x,), atol=1e-4)


@pytest.mark.parametrize("name", list_layers())
def test_nan_stays_in_its_sample(name) -> None:
    layer, x = build(name).eval(), torch.randn(3, 20, 9, 8)
    expected = layer(x)
    x[1] = float("nan")
    torch.testing.assert_close(layer(x)[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("name", DYNAMIC)
def test_an_unknown_argument_is_named_with_the_own_ones(name) -> None:
    kind = get_layer(name)
    for make in (lambda: kind(8, 8, 3, reductoin=3), lambda: kind.from_conv(nn.Conv2d(8, 8, 3), reductoin=3)):
        with pytest.raises(TypeError, match=f"{kind.__name__} has no argument 'reductoin'.*its own.* are: ") as caught:
            make()
        # what the command line prints as one line
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"groups": 0}, "groups must be a positive int, got 0"),
        ({"groups": "2"}, "groups must be a positive int, got '2'"),
        ({"kernel_size": 0}, "kernel_size must be"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be"),
        ({"kernel_size": 3.0}, "kernel_size must be"),
        ({"dilation": 0}, "dilation must be"),
        ({"in_channels": True}, "in_channels must be a positive int"),
        ({"dtype": torch.long}, "dtype must be a floating-point type"),
    ],
)
@pytest.mark.parametrize("name", DYNAMIC)
def test_wrong_values_are_named(name, arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        get_layer(name)(**{"in_channels": 8, "out_channels": 8, "kernel_size": 3, **arguments})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1, "1", 1e-60])
@pytest.mark.parametrize("name", ["dyconv", "odconv", "fdconv"])
def test_a_temperature_is_a_positive_number(name, value) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        build(name, temperature=value)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("kernel", [1, 2, (1, 3)])
@pytest.mark.parametrize("name", list_layers())
def test_single_channels(name, kernel, inputs, outputs) -> None:
    x = torch.randn(1, inputs, 4, 4)
    assert get_layer(name)(inputs, outputs, kernel)(x).shape == nn.Conv2d(inputs, outputs, kernel)(x).shape


def test_a_layer_without_its_methods_fails_when_it_is_defined() -> None:
    with pytest.raises(TypeError, match="Mine does not implement coefficients, load_static, reset_parameters"):

        class Mine(DynamicConv2d):
            def forward(self, x, coefficients=None):
                return x

    class Base(DynamicConv2d, abstract=True):
        def forward(self, x, coefficients=None):
            return x

    with pytest.raises(TypeError, match=r"'base'.*does not implement"):
        register_layer("base")(Base)
    with pytest.raises(TypeError, match="cannot be built"):
        Base(8, 8, 3)
