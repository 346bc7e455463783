"""If these fail, an official layer with other arguments than the defaults computes something else here."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dyvision.checkpoints import get_method
from dyvision.checkpoints._methods import fit

_spec = importlib.util.spec_from_file_location("official_layers", Path(__file__).with_name("official.py"))
_official = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_official)
hs2, per_sample = _official.hs2, _official.per_sample


class Layer(_official.Official):
    """One official layer: formulas on tensors that come into being with the first call; ``training`` of its norms."""

    training = False

    def bn(self, name: str, x: torch.Tensor) -> torch.Tensor:
        count = x.shape[1]
        weight, bias = self.get(f"{name}.weight", count, shift=1), self.get(f"{name}.bias", count)
        mean = self.get(f"{name}.running_mean", count)
        var = self.state.setdefault(f"{name}.running_var", torch.rand(count, dtype=torch.float64) + 0.5)
        return F.batch_norm(x, mean.clone(), var.clone(), weight, bias, self.training)

    def odconv(self, x, in_planes, out_planes, kernel_size, reduction=0.0625, kernel_num=4, **geometry):
        k, groups = kernel_size, geometry.get("groups", 1)
        h = self.head("attention.fc", x.mean((2, 3)), max(int(in_planes * reduction), 16), False)
        h, t = self.bn("attention.bn", h[..., None, None])[..., 0, 0].relu(), self.options.get("temperature", 1.0)
        kernels = self.get("weight", kernel_num, out_planes, in_planes // groups, k, k)[None]
        if k > 1:
            taps = (self.head("attention.spatial_fc", h, k * k) / t).sigmoid()
            kernels = kernels * taps.view(-1, 1, 1, 1, k, k)
        if kernel_num > 1:
            kernels = (
                kernels * (self.head("attention.kernel_fc", h, kernel_num) / t).softmax(1)[..., None, None, None, None]
            )
        x = x * (self.head("attention.channel_fc", h, in_planes) / t).sigmoid()[..., None, None]
        y = per_sample(x, kernels.sum(1).expand(len(x), -1, -1, -1, -1), **geometry)
        if groups == in_planes == out_planes:
            return y
        return y * (self.head("attention.filter_fc", h, out_planes) / t).sigmoid()[..., None, None]

    def dyconv(self, x, in_planes, out_planes, kernel_size, ratio=0.25, bias=True, K=4, **others):
        temperature = self.options.get("temperature", others.pop("temperature", 34))
        others.pop("init_weight", None)
        older = self.options.get("older", False)
        hidden = K if in_planes == 3 else int(in_planes * ratio) + (not older)
        h = self.head("attention.fc1", x.mean((2, 3)), hidden, False).relu()
        pi = (self.head("attention.fc2", h, K, not older) / temperature).softmax(1)
        shape = (K, out_planes, in_planes // others.get("groups", 1), kernel_size, kernel_size)
        y = per_sample(x, torch.einsum("bk,koihw->boihw", pi, self.get("weight", *shape)), **others)
        return y + (pi @ self.get("bias", K, out_planes))[..., None, None] if bias else y

    def condconv(self, x, in_channels, out_channels, kernel_size, bias=True, num_experts=1, **geometry):
        r = self.linear("route.fc", x.mean((2, 3)), num_experts).sigmoid()
        return self.mixed("conv.", x, r, in_channels, out_channels, kernel_size, bias, **geometry)

    def mixed(self, prefix, x, r, inputs, outputs, k, bias, **geometry):
        shape = (r.shape[1], outputs, inputs // geometry.get("groups", 1), k, k)
        y = per_sample(x, torch.einsum("bk,koihw->boihw", r, self.get(f"{prefix}weight", *shape)), **geometry)
        return y + (r @ self.get(f"{prefix}bias", r.shape[1], outputs))[..., None, None] if bias else y

    def timm(self, x, r, in_channels, out_channels, kernel_size=3, padding="", bias=False, num_experts=4, **geometry):
        k, s, d = kernel_size, geometry.get("stride", 1), geometry.get("dilation", 1)
        if padding == "same":
            ends = [max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0) for n in (x.shape[3], x.shape[2])]
            x, padding = F.pad(x, [side for n in ends for side in (n // 2, n - n // 2)]), 0
        padding = {"": (s - 1 + d * (k - 1)) // 2, "valid": 0}.get(padding, padding)
        y = self.mixed("", x, r, in_channels, out_channels, k, bias, padding=padding, **geometry)
        self.state["weight"] = self.state["weight"].view(num_experts, -1)  # as timm keeps it
        self.unfolded = (num_experts, out_channels, in_channels // geometry.get("groups", 1), k, k)
        return y

    def get(self, name, *shape, **options):
        if name == "weight" and name in self.state and self.state[name].ndim == 2:
            return self.state[name].view(shape)
        return super().get(name, *shape, **options)

    def dcd(self, x, form, inputs, outputs, k=1, stride=1, padding=0, fc_squeeze=16):
        pool, q, p, conv, least = 1, "q", "p", "conv", 4
        if form == "DYModule":
            q, p, m, r = "conv_q", "conv_p", *((4, 8) if inputs < outputs else (1, 2))
            pool = 2 if inputs < outputs else 1
            while (side := min(m * inputs // r, outputs // r)) ** 2 > 2 * m * inputs:
                r *= 2
            side = max(side, 4)
        else:
            pool, least = (2, 4) if form == "conv_basic_dy" else (1, 0)
            side = int(math.sqrt(inputs * pool**2))
        width = max(max(inputs * pool**2, side**2) // fc_squeeze, least)
        e = self.linear("fc.0", F.adaptive_avg_pool2d(x, pool).flatten(1), width, False)
        e = e * hs2(self.linear("fc.1.fc.0", e, width, False))
        scale = hs2(self.linear("fc_scale", e, outputs, False))[..., None, None]
        phi = self.linear("fc_phi", e, side**2, False).view(-1, side, side)
        u = self.bn("bn1", F.conv2d(x, self.get(f"{q}.weight", side, inputs, 1, 1), stride=stride))
        u = self.bn("bn2", torch.einsum("bij,bjhw->bihw", phi, u).flatten(2)).view_as(u) + u
        y = F.conv2d(x, self.get(f"{conv}.weight", outputs, inputs, k, k), stride=stride, padding=padding)
        return scale * y + F.conv2d(u, self.get(f"{p}.weight", outputs, side, 1, 1))

    def dgc(self, x, in_channels, out_channels, kernel_size, heads=4, squeeze_rate=16, gate_factor=0.25, **geometry):
        drop, progress = self.options.get("inactive_channels", 0), self.options.get("global_progress", 0.0)
        if self.training and progress > 1 / 12:
            part = 1.5 * (progress - 1 / 12) if progress < 0.75 else 1
            drop = round(in_channels * (1 - gate_factor) * part)
        self.state["_inactive_channels"] = torch.tensor([float(self.options.get("inactive_channels", 0))])
        x = self.bn("norm", x).relu()
        width = in_channels // (squeeze_rate // 2 if in_channels < 80 else squeeze_rate)
        outputs = []
        for head in range(heads):
            name = f"headconv_{head}"
            self.get(f"{name}.fc2.bias", in_channels, shift=1)
            gates = self.linear(f"{name}.fc1", x.mean((2, 3)), width, False).relu()
            gates = self.linear(f"{name}.fc2", gates, in_channels).relu()
            if drop:
                gates = gates * (gates > gates.sort(1).values[:, drop - 1 : drop])
            shape = (out_channels // heads, in_channels, kernel_size, kernel_size)
            outputs.append(F.conv2d(x * gates[..., None, None], self.get(f"{name}.conv.weight", *shape), **geometry))
        return torch.stack(outputs, 2).flatten(1, 2)

    def drconv(self, x, in_channels, out_channels, kernel_size, region_num=8, **geometry):
        k, r = kernel_size, region_num
        pooled = F.adaptive_avg_pool2d(x, k)
        hidden = F.conv2d(pooled, self.get("conv_kernel.1.weight", r * r, in_channels, 1, 1))
        hidden = (hidden + self.get("conv_kernel.1.bias", r * r)[:, None, None]).sigmoid()
        numbers = r * in_channels * out_channels
        kernels = F.conv2d(hidden, self.get("conv_kernel.3.weight", numbers, r, 1, 1), groups=r)
        kernels = kernels + self.get("conv_kernel.3.bias", numbers)[:, None, None]
        y = per_sample(x, kernels.view(len(x), r * out_channels, in_channels, k, k), **geometry).unflatten(1, (r, -1))
        guide = F.conv2d(x, self.get("conv_guide.weight", r, in_channels, k, k), **geometry)
        region = (guide + self.get("conv_guide.bias", r)[:, None, None]).argmax(1)
        return y.gather(1, region[:, None, None].expand(-1, 1, out_channels, -1, -1))[:, 0]

    def weightnet(self, x, p, inp, oup, ksize, stride, M=2, G=2):
        depthwise = oup is None
        outputs, inputs = (inp, 1) if depthwise else (oup, inp)
        count, groups = (M // G * inp, inp) if depthwise else (M * oup, G * oup)
        a = self.head("wn_fc1", p, count).sigmoid()
        weight = self.get("wn_fc2.weight", outputs * inputs * ksize**2, count // groups, 1, 1)
        kernels = F.conv2d(a[..., None, None], weight, groups=groups).view(-1, outputs, inputs, ksize, ksize)
        return per_sample(x, kernels, stride=stride, padding=ksize // 2, groups=inp if depthwise else 1)


def compare(method, official_class, arguments, inputs, formula, state=None, modes=(False, True), older=False):
    """Build and load our layer, and compare it with a formula in both modes."""
    torch.manual_seed(3)
    official = Layer(**(state or {}), older=older)
    formula(official)
    module = get_method(method)
    if hasattr(module, "adapt"):
        arguments = module.adapt(arguments, official.state)
    ours = module.build_layer(official_class, arguments, state or {}).double()
    given = {**(module.with_bias(official.state) if hasattr(module, "with_bias") else {}), **official.state}
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    translated = {
        name: fit(tensor, shapes.get(name, tuple(tensor.shape))) for name, tensor in module.layer_state(given).items()
    }
    left = ours.load_state_dict(translated, strict=False)
    assert not left.unexpected_keys
    assert {name.rpartition(".")[2] for name in left.missing_keys} <= {"temperature", "num_batches_tracked"}
    for training in modes:
        official.training = training
        expected = formula(official)
        assert expected.abs().max() > 0
        found = ours.train(training)(*inputs)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * expected.abs().max().item())


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
    from dyvision.checkpoints._shapes import dyconv_ratio, odconv_reduction

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
