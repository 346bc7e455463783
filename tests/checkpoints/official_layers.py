"""Official layers as plain formulas on tensors with official names, and their comparison with ours."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from dyvision.checkpoints import get_method
from dyvision.checkpoints.interface import fit

_spec = importlib.util.spec_from_file_location("official_networks_of_layers", Path(__file__).with_name("official.py"))
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
