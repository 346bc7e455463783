"""If these fail, an official layer with other arguments than the defaults computes something else here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from dyvision.checkpoints import get_method
from dyvision.checkpoints.shapes import dyconv_ratio, odconv_reduction

_spec = importlib.util.spec_from_file_location("official_layers", Path(__file__).with_name("official_layers.py"))
_layers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_layers)
compare = _layers.compare


def maps(channels: int, size: tuple[int, int] = (9, 7), batch: int = 4) -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randn(batch, channels, *size, dtype=torch.float64) + torch.randn(batch, channels, 1, 1).double()


ODCONV = [
    ((16, 24, 3), {}, {}),
    ((16, 24, 1), {"kernel_num": 1}, {"temperature": 7.0}),
    ((16, 24, 1), {"kernel_num": 1, "groups": 4, "padding": 1, "stride": 2}, {}),
    ((16, 24, 3), {"kernel_num": 1, "padding": 1}, {"temperature": 30.0}),
    ((12, 12, 3), {"kernel_num": 8, "groups": 12, "padding": 2, "dilation": 2}, {}),
    ((12, 24, 5), {"kernel_num": 2, "groups": 12, "padding": 2, "stride": 2}, {}),
    ((1, 1, 3), {"padding": 1}, {}),
    ((7, 5, 3), {"stride": 2, "padding": 1, "reduction": 2.6}, {"temperature": 0.5}),
    ((22, 6, 1), {"reduction": 0.999, "kernel_num": 2}, {}),
    ((40, 6, 3), {"reduction": 0.0}, {}),
    ((6, 8, 4), {"padding": "same", "kernel_num": 2}, {}),
    ((6, 8, 3), {"stride": [2, 1], "padding": [0, 2], "dilation": [1, 2]}, {}),
]


@pytest.mark.parametrize(("shape", "options", "state"), ODCONV, ids=str)
def test_odconv(shape, options, state) -> None:
    arguments = {**dict(zip(("in_planes", "out_planes", "kernel_size"), shape, strict=True)), **options}
    x = maps(shape[0])
    compare("odconv", "ODConv2d", arguments, (x,), lambda layer: layer.odconv(x, **arguments), state)


DYCONV = [
    ((16, 24, 3), {}, {}, False),
    ((3, 8, 3), {"K": 8, "stride": 2, "padding": 1}, {"temperature": 1}, False),
    ((15, 6, 5), {"K": 1, "padding": 2, "bias": False}, {}, False),
    ((2, 4, 1), {"K": 2, "temperature": 4}, {}, False),
    (
        (12, 12, 3),
        {"K": 2, "groups": 12, "dilation": 2, "padding": 2, "init_weight": False},
        {"temperature": 31},
        False,
    ),
    ((49, 6, 1), {"ratio": 0.9, "temperature": 1}, {}, False),
    ((8, 6, 1), {"ratio": 2.0}, {}, False),
    ((8, 6, 3), {"groups": 2}, {}, True),
    ((23, 6, 1), {"ratio": 0.57}, {"temperature": 7}, True),
    ((3, 6, 1), {"K": 5, "bias": False}, {"temperature": 7}, True),
]


@pytest.mark.parametrize(("shape", "options", "state", "older"), DYCONV, ids=str)
def test_dyconv(shape, options, state, older) -> None:
    arguments = {**dict(zip(("in_planes", "out_planes", "kernel_size"), shape, strict=True)), **options}
    x = maps(shape[0])
    formula = lambda layer: layer.dyconv(x, **arguments)  # noqa: E731
    compare("dyconv", "Dynamic_conv2d", arguments, (x,), formula, state, older=older)


@pytest.mark.parametrize("inputs", [15, 22, 23, 49, 107])
def test_hidden_widths_survive_division(inputs) -> None:
    for hidden in range(1, inputs + 9):
        ratio = dyconv_ratio({"attention.fc1.weight": (hidden, inputs, 1, 1)})
        assert ratio > 0 and int(inputs * ratio) + 1 == hidden
        reduction = odconv_reduction({"a.attention.fc.weight": (max(hidden, 16), inputs, 1, 1)})
        assert max(int(inputs * reduction), 16) == max(hidden, 16)


CONDCONV = [
    ((6, 8, 1), {}),
    ((6, 8, 3), {"num_experts": 8, "bias": False, "stride": 2, "padding": 1}),
    ((6, 6, 5), {"num_experts": 2, "groups": 6, "padding": 4, "dilation": 2}),
    ((6, 4, 3), {"num_experts": 3, "groups": 2, "stride": [2, 1], "padding": [1, 0]}),
]


@pytest.mark.parametrize(("shape", "options"), CONDCONV, ids=str)
def test_condconv(shape, options) -> None:
    arguments = {**dict(zip(("in_channels", "out_channels", "kernel_size"), shape, strict=True)), **options}
    x = maps(shape[0])
    compare("condconv", "route_func + CondConv2d", arguments, (x,), lambda layer: layer.condconv(x, **arguments))
    # the layer alone, with its own defaults and not those of timm's class of the same name
    geometry = {key: value for key, value in options.items() if key not in ("bias", "num_experts")}
    r, bias = maps(options.get("num_experts", 1)).mean((2, 3)), options.get("bias", True)
    formula = lambda layer: layer.mixed("", x, r, *shape, bias, **geometry)  # noqa: E731
    compare("condconv", "CondConv2d", arguments, (x, r), formula)


TIMM = [
    {},
    {"kernel_size": 5, "stride": 2, "bias": True, "num_experts": 8},
    {"kernel_size": 3, "padding": "same", "stride": 2, "groups": 2},
    {"kernel_size": 4, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": "valid", "num_experts": 1},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 6},
    {"kernel_size": 1, "stride": 2},
]


@pytest.mark.parametrize("method", ["condconv", "timm"])
@pytest.mark.parametrize("options", TIMM, ids=str)
def test_timm(method, options) -> None:
    arguments = {"in_channels": 6, "out_channels": 12, **options}
    x, r = maps(6), maps(options.get("num_experts", 4)).mean((2, 3))
    compare(method, "CondConv2d", arguments, (x, r), lambda layer: layer.timm(x, r, **arguments))


DCD = [
    ("DYModule", {"inp": 16, "oup": 48}),
    ("DYModule", {"inp": 16, "oup": 48, "fc_squeeze": 16}),
    ("DYModule", {"inp": 5, "oup": 7, "fc_squeeze": 4}),
    ("DYModule", {"inp": 48, "oup": 13, "fc_squeeze": 1}),
    ("DYModule", {"inp": 3, "oup": 2, "fc_squeeze": 64}),
    ("conv_basic_dy", {"inplanes": 3, "planes": 7, "stride": 2}),
    ("conv_basic_dy", {"inplanes": 18, "planes": 10, "stride": 1}),
    ("conv_dy", {"inplanes": 20, "planes": 12, "kernel_size": 1, "stride": 2, "padding": 0}),
    ("conv_dy", {"inplanes": 40, "planes": 12, "kernel_size": 5, "stride": 2, "padding": 2}),
    ("conv_dy", {"inplanes": 33, "planes": 12, "kernel_size": 3, "stride": 3, "padding": 1}),
    ("conv_dy", {"inplanes": 9, "planes": 6, "kernel_size": 3, "stride": 1, "padding": 1}),
]


@pytest.mark.parametrize(("official_class", "arguments"), DCD, ids=str)
def test_dcd(official_class, arguments) -> None:
    inputs, outputs = arguments.get("inp", arguments.get("inplanes")), arguments.get("oup", arguments.get("planes"))
    x, basic = maps(inputs), official_class == "conv_basic_dy"
    geometry = {"k": 3 if basic else arguments.get("kernel_size", 1), "stride": arguments.get("stride", 1)}
    geometry |= {"padding": 1 if basic else arguments.get("padding", 0)}
    geometry |= {"fc_squeeze": arguments.get("fc_squeeze", 8 if official_class == "DYModule" else 16)}
    formula = lambda layer: layer.dcd(x, official_class, inputs, outputs, **geometry)  # noqa: E731
    compare("dcd", official_class, arguments, (x,), formula)


DGC = [
    ((16, 24, 3), {"padding": 1}, {"inactive_channels": 5}),
    ((96, 8, 1), {"squeeze_rate": 32, "heads": 2}, {"inactive_channels": 72, "global_progress": 0.9}),
    # evaluation keeps what was saved, training follows the progress
    ((20, 12, 3), {"stride": 2, "gate_factor": 0.45, "heads": 1}, {"inactive_channels": 3, "global_progress": 0.4}),
    ((20, 12, 3), {"heads": 4}, {"inactive_channels": 3, "global_progress": 0.05}),
    # no hidden channel at all
    ((12, 8, 5), {"padding": 4, "dilation": 2, "squeeze_rate": 32}, {"inactive_channels": 0}),
    ((8, 8, 1), {"gate_factor": 1.0, "squeeze_rate": 4}, {"global_progress": 1.0}),
]


@pytest.mark.parametrize(("shape", "options", "state"), DGC, ids=str)
def test_dgc(shape, options, state) -> None:
    arguments = {**dict(zip(("in_channels", "out_channels", "kernel_size"), shape, strict=True)), **options}
    x = maps(shape[0])
    compare("dgc", "DynamicMultiHeadConv", arguments, (x,), lambda layer: layer.dgc(x, **arguments), state)


DRCONV = [
    ((5, 6, 1), {"region_num": 2, "stride": 2}),
    ((5, 6, 3), {"region_num": 3, "padding": 2, "dilation": 2}),
    ((4, 3, 5), {"region_num": 1, "padding": 2, "stride": 2}),
    ((4, 3, 3), {}),
]


@pytest.mark.parametrize(("shape", "options"), DRCONV, ids=str)
def test_drconv(shape, options) -> None:
    arguments = {**dict(zip(("in_channels", "out_channels", "kernel_size"), shape, strict=True)), **options}
    x = maps(shape[0])
    compare("drconv", "DRConv2d", arguments, (x,), lambda layer: layer.drconv(x, **arguments))


WEIGHTNET = [
    {"inp": 6, "oup": 10, "ksize": 1, "stride": 2},
    {"inp": 6, "oup": 5, "ksize": 5, "stride": 1},
    {"inp": 6, "oup": 5, "ksize": 3, "stride": 2, "M": 4, "G": 2},
    {"inp": 8, "oup": 5, "ksize": 2, "stride": 1, "M": 8, "G": 8},
    {"inp": 7, "oup": 5, "ksize": 3, "stride": 1, "M": 1, "G": 1},
    {"inp": 7, "ksize": 3, "stride": 2},
    {"inp": 7, "ksize": 5, "stride": 1, "M": 4, "G": 2},
    {"inp": 320, "oup": 4, "ksize": 1, "stride": 1},
]


@pytest.mark.parametrize("arguments", WEIGHTNET, ids=str)
def test_weightnet(arguments) -> None:
    x = maps(arguments["inp"])
    p = maps(max(16, arguments["inp"] // 16)).mean((2, 3), keepdim=True)
    name = "WeightNet" if "oup" in arguments else "WeightNet_DW"
    formula = lambda layer: layer.weightnet(x, p[..., 0, 0], **{"oup": None, **arguments})  # noqa: E731
    compare("weightnet", name, arguments, (x, p), formula)


REFUSED = [
    ("odconv", "ODConv2d", {"in_planes": 4, "out_planes": 4, "kernel_size": 3, "bias": True}, "no argument 'bias'"),
    ("odconv", "ODConv2d", {"in_planes": 4, "out_planes": 4, "kernel_size": 3, "min_channel": 4}, "no argument 'min_"),
    ("odconv", "ODConv2d", {"in_planes": 4, "out_planes": 4}, "needs the argument 'kernel_size'"),
    ("dyconv", "Dynamic_conv2d", {"in_planes": 4, "out_planes": 4, "kernel_size": 3, "ratios": 1}, "mean 'ratio'"),
    ("condconv", "CondConv2d", {"in_channels": 4, "out_channels": 4, "dropout_rate": 0.2}, "argument 'dropout_rate'"),
    (
        "condconv",
        "route_func + CondConv2d",
        {"in_channels": 4, "out_channels": 4, "kernel_size": 1, "activation": "x"},
        "no argument 'activation'",
    ),
    ("timm", "CondConv2d", {"in_channels": 4, "out_channels": 4, "num_expert": 2}, "mean 'num_experts'"),
    ("dcd", "DYModule", {"inp": 4, "oup": 4, "dilation": 2}, "DYModule has no argument 'dilation'"),
    ("dcd", "DYCls", {"inp": 4, "oup": 4, "bias": False}, "DYCls has no argument 'bias'"),
    ("dcd", "conv_basic_dy", {"inplanes": 4, "planes": 4}, "needs the argument 'stride'"),
    (
        "dcd",
        "conv_dy",
        {"inplanes": 4, "planes": 4, "kernel_size": 3, "stride": 3, "padding": 0},
        r"padding must be \(kernel_size - 1\) // 2",
    ),
    ("dgc", "DynamicMultiHeadConv", {"in_channels": 4, "out_channels": 4, "kernel_size": 1, "groups": 2}, "'groups'"),
    (
        "drconv",
        "DRConv2d",
        {"in_channels": 4, "out_channels": 4, "kernel_size": 1, "groups": 2},
        "groups is not supported: the reference passes it a second time",
    ),
    ("drconv", "DRConv2d", {"in_channels": 4, "out_channels": 4, "kernel_size": 1, "bias": False}, "cannot run"),
    ("weightnet", "WeightNet", {"inp": 4, "oup": 4, "ksize": 1, "stride": 1, "padding": 0}, "no argument 'padding'"),
    ("weightnet", "ShuffleNetV2", {"width": 1}, "ShuffleNetV2 has no argument 'width'"),
    ("condinst", "DynamicMaskHead", {"max_proposals": 5}, "belongs to the detector's training"),
    ("condinst", "DynamicMaskHead", {"channel": 5}, "mean 'channels'"),
]


@pytest.mark.parametrize(("method", "official_class", "arguments", "text"), REFUSED, ids=str)
def test_what_a_constructor_does_not_have_is_refused_by_name(method, official_class, arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        get_method(method).build_layer(official_class, arguments, {})
