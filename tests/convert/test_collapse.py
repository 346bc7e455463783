"""If these fail, a collapsed network is not what the dynamic one computes under its average coefficients."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

import dyvision
from dyvision import collapse, create_model, dynamize, fuse, list_layers
from dyvision.convert.collapse import to_conv
from dyvision.layers import get_layer

#: FDConv without bands, which have no kernel
OPTIONS = {"fdconv": {"band_kernel_sizes": (), "min_channels": 2}}
LAYERS = [name for name in list_layers() if name not in ("static", "drconv")]
SHARING = [name for name in LAYERS if get_layer(name).shares_coefficients]


@torch.no_grad()
def stir(module):
    """Coefficients that depend on the input, and norms with statistics of their own."""
    module.double()
    for parameter in module.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2)
    return module.eval()


GEOMETRIES = [
    {},
    {"kernel_size": 1},
    {"kernel_size": (3, 1), "padding": (1, 0)},
    {"padding": 1, "stride": 2},
    {"padding": 2, "dilation": 2},
    {"padding": "same", "stride": 2},
    {"padding": "same"},
    {"groups": 4, "padding": 1},
    {"groups": 8, "padding": 1, "out_channels": 8},
    {"kernel_size": 4, "padding": 1},
    {"kernel_size": 5, "padding": 2, "padding_mode": "reflect"},
    {"padding": 1, "bias": False},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_convolution_under_given_coefficients(name, geometry) -> None:
    torch.manual_seed(0)
    sizes = {"in_channels": 8, "out_channels": 12, "kernel_size": 3, **geometry}
    layer = stir(get_layer(name)(**sizes, **OPTIONS.get(name, {})))
    if layer.static_obstacle():
        assert name == "sk"
        return
    x, other = (torch.randn(count, 8, 11, 10, dtype=torch.float64) for count in (1, 3))
    with torch.no_grad():
        coefficients = layer.coefficients(x)
        conv = to_conv(layer, coefficients)
        torch.testing.assert_close(conv(x), layer(x), rtol=1e-9, atol=1e-9)
        assert type(conv) is (
            timm.layers.Conv2dSame if (layer.padding, layer.stride) == ("same", (2, 2)) else nn.Conv2d
        )
        for sample in other:  # the coefficients of the first image for another one
            torch.testing.assert_close(conv(sample[None]), layer(sample[None], coefficients), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dcd", {"blocks": 4}),
        ("dcd", {"form": "bottleneck"}),
        ("dgc", {"heads": 2}),
        ("fdconv", {"band_kernel_sizes": (), "min_channels": 2, "param_ratio": 2, "spectral": False}),
        ("fdconv", {"min_channels": 100}),
        ("kernelwarehouse", {"cell_num_ratio": 2.0, "spatial_partition": False}),
        ("odconv", {"num_kernels": 1}),
        ("sk", {"branches": 3}),
        ("weightnet", {"multiplier": 4}),
    ],
)
def test_forms_of_layers(name, options) -> None:
    layer, x = stir(get_layer(name)(8, 12, 3, padding=1, **options)), torch.randn(1, 8, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(to_conv(layer, layer.coefficients(x))(x), layer(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["dcd", "dyconv", "odconv"])
def test_fused_networks_collapse_too(name) -> None:
    model = stir(nn.Sequential(get_layer(name)(3, 8, 3, bias=False), nn.BatchNorm2d(8)))
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    static = collapse(fuse(model, (1, 3, 9, 9)), [x])
    torch.testing.assert_close(static(x), model(x), rtol=1e-9, atol=1e-9)


def tree(model):
    return [(name, type(module)) for name, module in model.named_modules()]


@pytest.mark.parametrize("network", ["mobilenetv2_035", "test_resnet", "tf_mobilenetv3_small_100", "test_convnext"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_network_is_timms_own_again_and_computes_the_same_for_one_image(name, network) -> None:
    torch.manual_seed(1)
    model = timm.create_model(network, num_classes=5)
    dynamize(model, name, **OPTIONS.get(name, {}))
    stir(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    static = collapse(model, [x])
    with torch.no_grad():
        torch.testing.assert_close(static(x), model(x), rtol=1e-7, atol=1e-9)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(type(module).__module__.startswith("dyvision") for module in static.modules())
    plain = timm.create_model(network, num_classes=5).double().eval()
    assert tree(static) == tree(plain)
    state = static.state_dict()
    if name == "sk" or (name == "dcd" and network == "test_convnext"):
        return  # larger kernels; a bias that no BatchNorm takes in
    plain.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), static(x))


@pytest.mark.parametrize("name", LAYERS)
def test_coefficients_are_averaged_over_images_and_not_over_batches(name) -> None:
    torch.manual_seed(2)
    layer = stir(get_layer(name)(8, 12, 3, padding=1, **OPTIONS.get(name, {})))
    images = torch.randn(5, 8, 7, 6, dtype=torch.float64) * torch.arange(1.0, 6)[:, None, None, None]
    with torch.no_grad():
        samples = [layer.coefficients(image[None]) for image in images]
        if isinstance(samples[0], torch.Tensor):
            mean = torch.stack(samples).mean(0)
        else:
            parts = zip(*samples, strict=True)
            mean = type(samples[0])(*(None if part[0] is None else torch.stack(part).mean(0) for part in parts))
        expected = layer(images[:1], mean)
        found = collapse(nn.Sequential(layer), [images[:4], images[4:]])
        torch.testing.assert_close(found(images[:1]), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SHARING)
def test_copies_and_pickles_of_blocks_that_share_a_branch(name) -> None:
    model = timm.create_model("regnety_002", num_classes=5)
    dynamize(model, name, policy="blocks")
    stir(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = model(x)
    for other in (copy.deepcopy(copy.deepcopy(model)), pickle.loads(pickle.dumps(model))):
        static = collapse(other, [x])
        assert tree(static) == tree(timm.create_model("regnety_002", num_classes=5))
        torch.testing.assert_close(static(x), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SHARING)
def test_a_block_whose_class_is_not_to_be_had_stays_rewritten(name) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return x + self.conv2(torch.relu(self.conv1(x)))

    plain = nn.Sequential(nn.Conv2d(3, 8, 3), Block())
    model = stir(dynamize(copy.deepcopy(plain), name))
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    static = collapse(model, [x])
    torch.testing.assert_close(static(x), model(x), rtol=1e-9, atol=1e-9)
    assert list(static.state_dict()) == list(plain.state_dict())
    assert not any(type(module).__module__.startswith("dyvision") for module in static.modules())
    assert pickle.loads(pickle.dumps(static))(x).shape == (1, 8, 7, 7)


@pytest.mark.parametrize("layer", ["dcd", "condconv"])
def test_dynamic_classifiers_become_linear(layer) -> None:
    model = stir(create_model("mobilenetv2_035", layer=layer, num_classes=5, dynamic_classifier=True))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    static = collapse(model, [x])
    assert type(static.classifier) is nn.Linear
    torch.testing.assert_close(static(x), model(x), rtol=1e-7, atol=1e-9)
    if layer == "condconv":
        assert static.classifier.bias is None


def test_networks_of_torchvision() -> None:
    model = stir(dynamize(torchvision.models.resnet18(num_classes=4), "dynet"))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    static = collapse(model, [x])
    torchvision.models.resnet18(num_classes=4).load_state_dict(static.state_dict())
    assert tree(static) == tree(torchvision.models.resnet18(num_classes=4))
    torch.testing.assert_close(static(x), model(x), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("drconv", {}, r"1 layers cannot.*1 \(DRConv2d: every position chooses a kernel"),
        ("fdconv", {"min_channels": 2}, r"FDConv2d: it scales bands.*band_kernel_sizes=\(\)"),
        ("dgc", {"pre_activation": True}, r"DGConv2d: pre_activation=True puts a ReLU"),
        ("sk", {"activation": True, "preserve_outputs": False}, r"SKConv2d: activation=True puts a ReLU"),
    ],
)
def test_layers_that_no_convolution_computes_are_named(name, options, message) -> None:
    model = dynamize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), name, policy="1", **options)
    with pytest.raises(ValueError, match=message):
        collapse(model, [torch.randn(1, 3, 9, 9)])
    with pytest.raises(ValueError, match="cannot become an ordinary convolution"):
        to_conv(model[1], None)


def test_it_is_there_under_its_name() -> None:
    assert dyvision.collapse is collapse
