"""Official networks as plain formulas on tensors with official names, of any width.

Parameters come into being when a forward pass first asks for them, so names, shapes and mathematics stand in one place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: stride, blocks and expansion of MobileNetV2's stages
STAGES = ((1, 1, 1), (2, 2, 6), (2, 3, 6), (2, 4, 6), (1, 3, 6), (2, 3, 6), (1, 1, 6))


def hs2(z: Tensor) -> Tensor:
    return (z + 3).clamp(0, 6) / 3


def per_sample(x: Tensor, kernels: Tensor, **geometry) -> Tensor:
    return torch.cat([F.conv2d(s[None], w, **geometry) for s, w in zip(x, kernels, strict=True)])


class Official:
    """Base: parameters by name, and the layers of all methods."""

    def __init__(self, **options) -> None:
        self.state: dict[str, Tensor] = {}
        self.options = options

    def get(self, name: str, *shape: int, scale: float | None = None, shift: float = 0.0) -> Tensor:
        if name not in self.state:
            fan_in = (math.prod(shape[1:]) if len(shape) > 1 else 25) or 1
            self.state[name] = torch.randn(shape, dtype=torch.float64) * (scale or fan_in**-0.5) + shift
        assert self.state[name].shape == shape, name
        return self.state[name]

    def bn(self, name: str, x: Tensor) -> Tensor:
        count = x.shape[1]
        weight, bias = self.get(f"{name}.weight", count, shift=1), self.get(f"{name}.bias", count)
        fresh = f"{name}.running_var" not in self.state
        mean, var = self.get(f"{name}.running_mean", count), self.get(f"{name}.running_var", count)
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(1))
        if fresh:  # statistics of what comes: activations keep their scale
            rows = x.transpose(0, 1).flatten(1)
            # a branch's are those of a few samples: what is nearly the same in all must not be blown up
            mean.copy_(rows.mean(1)), var.copy_(rows.var(1, correction=0) + (0.1 if "attention" in name else 1e-4))
        return F.batch_norm(x, mean, var, weight, bias)

    def linear(self, name: str, x: Tensor, outputs: int, bias: bool = True) -> Tensor:
        return F.linear(
            x, self.get(f"{name}.weight", outputs, x.shape[1]), self.get(f"{name}.bias", outputs) if bias else None
        )

    def head(self, name: str, x: Tensor, outputs: int, bias: bool = True) -> Tensor:
        """A linear layer that is a 1x1 convolution."""
        weight = self.get(f"{name}.weight", outputs, x.shape[1], 1, 1)[..., 0, 0]
        return F.linear(x, weight, self.get(f"{name}.bias", outputs) if bias else None)

    def static(self, name: str, x: Tensor, outputs: int, k: int, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.get(f"{name}.weight", outputs, x.shape[1] // groups, k, k)
        return F.conv2d(x, weight, None, stride, k // 2, 1, groups)

    def odconv(self, name: str, x: Tensor, outputs: int, k: int, stride: int = 1, groups: int = 1) -> Tensor:
        inputs, count = x.shape[1], self.options["kernel_num"]
        hidden = max(int(inputs * self.options.get("reduction", 0.0625)), 16)
        h = self.bn(f"{name}.attention.bn", self.head(f"{name}.attention.fc", x.mean((2, 3)), hidden, False)).relu()
        weight = self.get(f"{name}.weight", count, outputs, inputs // groups, k, k)
        x = x * self.head(f"{name}.attention.channel_fc", h, inputs).sigmoid()[..., None, None]
        kernels = weight[None]
        if k > 1:
            kernels = kernels * self.head(f"{name}.attention.spatial_fc", h, k * k).sigmoid().view(-1, 1, 1, 1, k, k)
        if count > 1:
            mix = self.head(f"{name}.attention.kernel_fc", h, count).softmax(1)
            kernels = kernels * mix[..., None, None, None, None]
        kernels = kernels.sum(1).expand(len(x), -1, -1, -1, -1)
        y = per_sample(x, kernels, stride=stride, padding=k // 2, groups=groups)
        if groups == inputs == outputs:
            return y
        return y * self.head(f"{name}.attention.filter_fc", h, outputs).sigmoid()[..., None, None]

    def dyconv(self, name: str, x: Tensor, outputs: int, k: int, stride: int = 1, groups: int = 1) -> Tensor:
        inputs, count = x.shape[1], self.options.get("K", 4)
        hidden = int(inputs * self.options.get("ratio", 0.25)) + self.options.get("more", 1)
        h = self.head(f"{name}.attention.fc1", x.mean((2, 3)), hidden, False).relu()
        mix = self.head(f"{name}.attention.fc2", h, count, self.options.get("bias", True)).softmax(1)
        weight = self.get(f"{name}.weight", count, outputs, inputs // groups, k, k)
        kernels = torch.einsum("bk,koihw->boihw", mix, weight)
        return per_sample(x, kernels, stride=stride, padding=k // 2, groups=groups)

    def dgc(self, name: str, x: Tensor, outputs: int, k: int, stride: int = 1, groups: int = 1) -> Tensor:
        inputs, heads, rate = x.shape[1], self.options.get("heads", 4), self.options.get("squeeze_rate", 16)
        drop = inputs // 2
        self.state[f"{name}._inactive_channels"] = torch.tensor([float(drop)])
        x, y = self.bn(f"{name}.norm", x).relu(), []
        for head in range(heads):
            prefix = f"{name}.headconv_{head}"
            self.get(f"{prefix}.fc2.bias", inputs, shift=1)
            width = inputs // (rate // 2 if inputs < 80 else rate)
            gates = self.linear(f"{prefix}.fc1", x.mean((2, 3)), width, False).relu()
            gates = self.linear(f"{prefix}.fc2", gates, inputs).relu()
            gates = gates * (gates > gates.sort(1).values[:, drop - 1 : drop])
            y.append(self.static(f"{prefix}.conv", x * gates[..., None, None], outputs // heads, k, stride))
        return torch.stack(y, 2).flatten(1, 2)

    def dcd(self, name: str, x: Tensor, outputs: int, k: int, stride: int = 1, groups: int = 1) -> Tensor:
        inputs, form = x.shape[1], self.options["form"]
        pool, squeeze = 1, self.options.get("fc_squeeze", 16)
        if form == "pointwise":
            m, r = (4, 8) if inputs < outputs else (1, 2)
            pool = 2 if inputs < outputs else 1
            while (side := min(m * inputs // r, outputs // r)) ** 2 > 2 * m * inputs:
                r *= 2
            side = max(side, 4)
            q, p, least = "conv_q", "conv_p", 4
        else:
            pool = 2 if form == "basic" else 1
            side, q, p, least = int(math.sqrt(inputs * pool**2)), "q", "p", 4 if form == "basic" else 0
        width = max(max(inputs * pool**2, side**2) // squeeze, least)
        e = self.linear(f"{name}.fc.0", F.adaptive_avg_pool2d(x, pool).flatten(1), width, False)
        e = e * hs2(self.linear(f"{name}.fc.1.fc.0", e, width, False))
        scale = hs2(self.linear(f"{name}.fc_scale", e, outputs, False))[..., None, None]
        phi = self.linear(f"{name}.fc_phi", e, side**2, False).view(-1, side, side)
        u = self.bn(f"{name}.bn1", self.static(f"{name}.{q}", x, side, 1, stride))
        mixed = torch.einsum("bij,bjhw->bihw", phi, u)
        u = self.bn(f"{name}.bn2", mixed.flatten(2)).view_as(u) + u
        return scale * self.static(f"{name}.conv", x, outputs, k, stride) + self.static(f"{name}.{p}", u, outputs, 1)

    def dcd_classifier(self, name: str, f: Tensor, classes: int) -> Tensor:
        e = self.linear(f"{name}.fc.0", f, 32, False)
        e = e * hs2(self.linear(f"{name}.fc.1.fc.0", e, 32, False))
        phi = self.linear(f"{name}.fc_phi", e, 1024, False).view(-1, 32, 32)
        u = self.bn(f"{name}.bn1", self.linear(f"{name}.cls_q", f, 32, False))
        u = self.bn(f"{name}.bn2", torch.einsum("bij,bj->bi", phi, u)) + u
        scale = hs2(self.linear(f"{name}.fc_scale", e, classes, False))
        return scale * self.linear(f"{name}.cls", f, classes) + self.linear(f"{name}.cls_p", u, classes, False)


class ResNet(Official):
    """A ResNet of a method, ``widths`` and ``blocks`` per stage."""

    def __init__(self, method, widths, blocks, bottleneck=False, stem=64, classes=10, **options) -> None:
        super().__init__(**options, form="bottleneck" if bottleneck else "basic")
        self.method, self.widths, self.blocks, self.stem, self.classes = method, widths, blocks, stem, classes
        self.bottleneck = bottleneck

    def __call__(self, x: Tensor) -> Tensor:
        conv = getattr(self, self.method)
        shortcut = conv if self.method in ("dyconv", "dgc") else self.static
        norm = "downsample.1.norm" if self.method == "dgc" else "downsample.1"
        x = F.max_pool2d(self.bn("bn1", self.static("conv1", x, self.stem, 7, 2)).relu(), 3, 2, 1)
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            outputs = width * (4 if self.bottleneck else 1)
            groups = self.options.get("groups", 1)
            inner = int(width * self.options.get("width_per_group", 64) / 64) * groups
            for block in range(count):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y, convs = x, [(outputs, 3, stride, 1), (outputs, 3, 1, 1)]
                if self.bottleneck:
                    convs = [(inner, 1, 1, 1), (inner, 3, stride, groups), (outputs, 1, 1, 1)]
                for number, (channels, k, step, g) in enumerate(convs, 1):
                    y = self.bn(f"{name}.bn{number}", conv(f"{name}.conv{number}", y, channels, k, step, g))
                    y = y.relu() if number < len(convs) else y
                if stride > 1 or x.shape[1] != outputs:
                    x = self.bn(f"{name}.{norm}", shortcut(f"{name}.downsample.0", x, outputs, 1, stride))
                x = (x + y).relu()
        x = x.mean((2, 3))
        if self.method == "dcd":
            return self.dcd_classifier("classifier.0", x, self.classes)
        return self.linear("fc", x, self.classes)


class MobileNetV2(Official):
    """A MobileNetV2 of a method: ``widths`` of stem, seven stages and head."""

    def __init__(self, method, widths, classes=10, **options) -> None:
        super().__init__(**options, form="pointwise")
        self.method, self.widths, self.classes = method, widths, classes

    def __call__(self, x: Tensor) -> Tensor:
        flat, conv = self.method == "dcd", getattr(self, self.method)
        stem, *stages, head = self.widths
        x, number = F.relu6(self.bn("features.0.1", self.static("features.0.0", x, stem, 3, 2))), 0
        for outputs, (stride, count, expansion) in zip(stages, STAGES, strict=True):
            for block in range(count):
                number += 1
                hidden, step = x.shape[1] * expansion, stride if block == 0 else 1
                convs = [(hidden, 1, 1, 1)] * (expansion > 1) + [(hidden, 3, step, hidden), (outputs, 1, 1, 1)]
                y = x
                for place, (channels, k, s, g) in enumerate(convs):
                    last, prefix = place == len(convs) - 1, f"features.{number}.conv"
                    names = (f"{place}", f"{place + 1}") if last else (f"{place}.0", f"{place}.1")
                    names = (f"{3 * place}", f"{3 * place + 1}") if flat else names
                    layer = self.static if flat and (g > 1 or expansion == 1) else conv
                    y = self.bn(f"{prefix}.{names[1]}", layer(f"{prefix}.{names[0]}", y, channels, k, s, g))
                    y = y if last else F.relu6(y)
                x = x + y if step == 1 and x.shape[1] == outputs else y
        name, layer = ("conv", self.static) if flat else (f"features.{number + 1}", conv)
        x = F.relu6(self.bn(f"{name}.1", layer(f"{name}.0", x, head, 1))).mean((2, 3))
        if flat:
            return self.dcd_classifier("classifier.1", x, self.classes)
        return self.linear("classifier.1", x, self.classes)


class WeightNet(Official):
    """A ShuffleNetV2 of generated kernels: ``widths`` of stem, three stages and head; M and G."""

    def __init__(self, widths, classes=10, m=2, g=2) -> None:
        super().__init__()
        self.widths, self.classes, self.m, self.g = widths, classes, m, g

    def generated(self, name: str, x: Tensor, p: Tensor, outputs: int, k: int, stride: int, depthwise: bool) -> Tensor:
        inputs = 1 if depthwise else x.shape[1]
        groups = outputs if depthwise else self.g * outputs
        count = self.m // self.g * outputs if depthwise else self.m * outputs
        a = self.head(f"{name}.wn_fc1", p, count).sigmoid()
        numbers = outputs * inputs * k * k
        weight = self.get(f"{name}.wn_fc2.weight", groups, numbers // groups, count // groups, 1, 1)[..., 0, 0]
        kernels = torch.einsum("goi,bgi->bgo", weight, a.view(len(a), groups, -1)).reshape(-1, outputs, inputs, k, k)
        return per_sample(x, kernels, stride=stride, padding=k // 2, groups=outputs if depthwise else 1)

    def unit(self, name: str, x: Tensor, outputs: int, stride: int) -> Tensor:
        left, x = (x, x) if stride == 2 else (x[:, ::2], x[:, 1::2])
        inputs, middle = x.shape[1], outputs // 2
        p = self.head(f"{name}.reduce", x.mean((2, 3)), max(16, inputs // 16))
        y = self.bn(f"{name}.bn1", self.generated(f"{name}.wnet1", x, p, middle, 1, 1, False)).relu()
        y = self.bn(f"{name}.bn2", self.generated(f"{name}.wnet2", y, p, middle, 3, stride, True))
        y = self.bn(f"{name}.bn3", self.generated(f"{name}.wnet3", y, p, outputs - inputs, 1, 1, False)).relu()
        if stride == 2:
            left = self.generated(f"{name}.wnet_proj_1", left, p, inputs, 3, 2, True)
            left = self.generated(f"{name}.wnet_proj_2", self.bn(f"{name}.bn_proj_1", left), p, inputs, 1, 1, False)
            left = self.bn(f"{name}.bn_proj_2", left).relu()
        return torch.cat([left, y], 1)

    def biased(self, name: str, x: Tensor, outputs: int, k: int, stride: int) -> Tensor:
        y = self.static(f"{name}.0", x, outputs, k, stride) + self.get(f"{name}.0.bias", outputs)[:, None, None]
        return self.bn(f"{name}.1", y).relu()

    def __call__(self, x: Tensor) -> Tensor:
        stem, *stages, head = self.widths
        x, number = F.max_pool2d(self.biased("first_conv", x, stem, 3, 2), 3, 2, 1), 0
        for outputs, count in zip(stages, (4, 8, 4), strict=True):
            for block in range(count):
                x = self.unit(f"features.{number}", x, outputs, 1 if block else 2)
                number += 1
        return self.linear("classifier.0", self.biased("conv_last", x, head, 1, 1).mean((2, 3)), self.classes)
