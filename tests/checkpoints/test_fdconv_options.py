"""If these fail, an official FDConv layer with other arguments than the defaults computes something else here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from dyvision.checkpoints.interface import fit
from dyvision.checkpoints.methods.fdconv import apply_auxiliary, build_layer, layer_state
from dyvision.layers.frequency import frequency_order

BANDS = {"k_list": [2, 4, 8], "lowfreq_att": False, "act": "sigmoid", "spatial_group": 1, "spatial_kernel": 3}


class Official:
    """The published formulas, sample by sample and frequency by frequency, on tensors with the official names."""

    def __init__(self, inputs: int, outputs: int, k: int, **arguments) -> None:
        self.shape, self.arguments = (outputs, inputs, k), arguments
        get = arguments.get
        self.ratio, self.n, self.reduction = get("param_ratio", 1), get("kernel_num", 4), get("param_reduction", 1.0)
        self.kernel_t = get("kernel_temp", 1.0)
        if self.n is None:
            self.n = outputs // 2
            self.kernel_t = math.sqrt(self.n * self.ratio)
        self.t = self.kernel_t if get("temp") is None else get("temp")
        self.rows, self.columns = outputs * k, inputs * k // 2 + 1
        self.kept = int(self.rows * self.columns * min(self.reduction, 1))
        self.order = frequency_order(outputs * k, inputs * k)[: self.kept]
        self.bands = {**BANDS, **get("fbm_cfg", {})} if k in get("use_fbm_if_k_in", [3]) else None
        if get("use_fbm_for_stride") and get("stride", 1) > 1:
            self.bands = {**BANDS, **get("fbm_cfg", {})}
        self.state = self._state()

    def _state(self) -> dict[str, torch.Tensor]:
        outputs, inputs, k = self.shape
        hidden, get = max(int(inputs * self.arguments.get("reduction", 0.0625)), 16), self.arguments.get
        shapes = {"fc.weight": (hidden, inputs, 1, 1), "relu.scale": (1,), "relu.bias": (1,)}
        shapes.update({f"bn.{name}": (hidden,) for name in ("weight", "bias", "running_mean", "running_var")})
        heads = {"kernel_fc": self.n * self.ratio}
        if not get("ksm_only_kernel_att"):
            heads.update({"channel_fc": inputs, "filter_fc": outputs, **({"spatial_fc": k * k} if k > 1 else {})})
        for name, size in heads.items():
            shapes.update({f"{name}.weight": (size, hidden, 1, 1), f"{name}.bias": (size,)})
        shapes = {f"KSM_Global.{name}": shape for name, shape in shapes.items()}
        if get("use_ksm_local", True):
            size = round(math.log2(inputs) / 2 + 0.5) // 2 * 2 + 1
            shapes.update({"KSM_Local.norm.weight": (inputs,), "KSM_Local.norm.bias": (inputs,)})
            shapes["KSM_Local.conv.weight"] = (outputs * k * k, 1, size)
        if self.bands is not None:
            groups = self.bands["spatial_group"] if self.bands["spatial_group"] <= 64 else inputs
            side = self.bands["spatial_kernel"]
            for number in range(len(self.bands["k_list"]) + self.bands["lowfreq_att"]):
                name = f"FBM.freq_weight_conv_list.{number}"
                shapes.update({f"{name}.weight": (groups, inputs // groups, side, side), f"{name}.bias": (groups,)})
        if not get("convert_param", True):
            shapes["weight"] = (outputs, inputs) if get("linear_mode") else (outputs, inputs, k, k)
        elif self.reduction < 1:
            shapes["dft_weight"] = (self.ratio, self.kept, 2)
        else:
            shapes["dft_weight"] = (self.ratio, self.rows, self.columns, 2)
        if get("bias"):
            shapes["bias"] = (outputs,)
        state = {name: torch.randn(shape, dtype=torch.float64) * 0.3 for name, shape in shapes.items()}
        state["KSM_Global.bn.running_var"] = state["KSM_Global.bn.running_var"].abs() + 0.5
        return state

    def gate(self, logits: torch.Tensor, act: str) -> torch.Tensor:
        return torch.tanh(logits) + 1 if act == "tanh" else self.arguments.get("att_multi", 2.0) / (1 + (-logits).exp())

    def kernel(self, pooled: torch.Tensor) -> torch.Tensor:
        """The kernel of one sample."""
        outputs, inputs, k = self.shape
        s = {name.removeprefix("KSM_Global."): tensor for name, tensor in self.state.items()}
        z = s["fc.weight"][..., 0, 0] @ pooled
        z = (z - s["bn.running_mean"]) / (s["bn.running_var"] + 1e-5).sqrt() * s["bn.weight"] + s["bn.bias"]
        h = s["relu.scale"] * z.clamp_min(0) ** 2 + s["relu.bias"]
        act = self.arguments.get("ksm_global_act", "sigmoid")
        logits = {
            head: s[f"{head}.weight"][..., 0, 0] @ h + s[f"{head}.bias"]
            for head in ("channel_fc", "filter_fc", "spatial_fc", "kernel_fc")
            if f"{head}.weight" in s
        }
        groups = logits["kernel_fc"] / self.kernel_t
        count = len(groups)
        groups = groups.softmax(0) if act == "softmax" else self.one(groups, act) / count
        plane = torch.zeros(self.rows * self.columns, dtype=torch.complex128)
        scale = min(outputs, inputs) // 2
        for i in range(self.ratio):
            if "dft_weight" in s:
                values = torch.view_as_complex(s["dft_weight"][i].contiguous()).flatten()
            else:
                weight = s["weight"].view(outputs, inputs, k, k).permute(0, 2, 1, 3).reshape(self.rows, inputs * k)
                values = torch.fft.rfft2(weight).flatten() / scale
            for place, position in enumerate(self.order.tolist()):
                gate = groups[i * self.n + place // (self.kept // self.n)]
                if self.reduction < 1:
                    plane[position] += gate * values[place]
                else:
                    plane[position] += gate * values[position] * scale * self.n * self.ratio / self.reduction
        kernel = torch.fft.irfft2(plane.view(self.rows, self.columns))
        kernel = kernel.view(outputs, k, inputs, k).permute(0, 2, 1, 3)
        for head, axes in (("channel_fc", (1, -1, 1, 1)), ("filter_fc", (-1, 1, 1, 1)), ("spatial_fc", (1, 1, k, k))):
            if head in logits:
                kernel = kernel * self.gate(logits[head] / self.t, act).view(axes)
        if "KSM_Local.conv.weight" in s:
            rows = F.layer_norm(pooled, (inputs,), s["KSM_Local.norm.weight"], s["KSM_Local.norm.bias"])
            filters = s["KSM_Local.conv.weight"][:, 0]
            padded = F.pad(rows, (filters.shape[1] // 2,) * 2)
            local = torch.stack([filters @ padded[c : c + filters.shape[1]] for c in range(inputs)])
            local = local.view(inputs, outputs, k, k).transpose(0, 1)
            kernel = kernel * self.gate(local, self.arguments.get("ksm_local_act", "sigmoid"))
        return kernel

    @staticmethod
    def one(logits: torch.Tensor, act: str) -> torch.Tensor:
        return 1 + logits.tanh() if act == "tanh" else 2 * logits.sigmoid()

    def modulated(self, x: torch.Tensor) -> torch.Tensor:
        """The map ``[C, H, W]`` with its bands scaled."""
        if self.bands is None:
            return x
        channels, height, width = x.shape
        groups = self.bands["spatial_group"] if self.bands["spatial_group"] <= 64 else channels
        gates = []
        for number in range(len(self.bands["k_list"]) + self.bands["lowfreq_att"]):
            name = f"FBM.freq_weight_conv_list.{number}"
            weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
            z = F.conv2d(x[None], weight, bias, padding=weight.shape[-1] // 2, groups=groups)[0]
            act = self.bands["act"]
            gate = z.softmax(0) * groups if act == "softmax" else self.one(z, act)
            gates.append(gate.repeat_interleave(channels // groups, 0))
        size = self.bands.get("max_size", (64, 64))
        radius = torch.maximum(torch.fft.fftfreq(size[0]).abs()[:, None], torch.fft.rfftfreq(size[1]))
        edges = [x]
        for divisor in self.bands["k_list"]:
            mask = (radius < 0.5 / divisor + 1e-8).double()[None, None]
            mask = F.interpolate(mask, (height, width // 2 + 1), mode="nearest")[0, 0]
            edges.append(torch.fft.irfft2(torch.fft.rfft2(x) * mask, s=(height, width)))
        low = gates[-1] * edges[-1] if self.bands["lowfreq_att"] else edges[-1]
        return low + sum(gate * (a - b) for gate, a, b in zip(gates, edges, edges[1:], strict=False))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        geometry = {name: self.arguments[name] for name in ("stride", "padding", "dilation") if name in self.arguments}
        outputs = [
            F.conv2d(self.modulated(sample)[None], self.kernel(sample.mean((1, 2))), self.state.get("bias"), **geometry)
            for sample in x
        ]
        return torch.cat(outputs)


CASES = [
    {},
    {"ksm_local_act": "tanh"},
    {"ksm_global_act": "tanh"},
    {"ksm_global_act": "tanh", "ksm_local_act": "tanh", "kernel_temp": 2.5},
    {"ksm_global_act": "softmax", "ksm_only_kernel_att": True},
    {"ksm_only_kernel_att": True, "use_ksm_local": False},
    {"ksm_only_kernel_att": True, "spatial_freq_decompose": True, "att_grid": 3},
    {"use_ksm_local": False},
    {"att_multi": 1.5},
    {"kernel_temp": 3.0},
    {"kernel_temp": 3.0, "temp": 0.5},
    {"kernel_num": None},
    {"kernel_num": None, "param_ratio": 2},
    {"param_ratio": 3, "ksm_global_act": "tanh"},
    {"param_ratio": 2, "ksm_global_act": "softmax", "ksm_only_kernel_att": True},
    {"param_reduction": 0.5},
    {"param_reduction": 0.25, "param_ratio": 2, "kernel_num": 3},
    {"param_reduction": 2.0},
    {"convert_param": False},
    {"convert_param": False, "param_ratio": 2},
    {"reduction": 1.0, "bias": True, "stride": 2, "padding": 2},
    {"use_fbm_if_k_in": []},
    {"use_fbm_if_k_in": [1], "use_fbm_for_stride": True, "stride": 2},
    {"fbm_cfg": {**BANDS, "lowfreq_att": True, "act": "tanh"}},
    {"fbm_cfg": {**BANDS, "act": "softmax", "spatial_group": 4, "lowfreq_att": True, "fs_feat": "feat"}},
    {"fbm_cfg": {**BANDS, "spatial_group": 65, "spatial_kernel": 5}},
    {"fbm_cfg": {**BANDS, "k_list": [3, 5, 11, 16], "max_size": (48, 30)}},
    {"use_fdconv_if_stride_in": [2], "dilation": 2, "padding": 2},
]


def official_and_ours(inputs: int, outputs: int, k: int, arguments: dict) -> tuple[Official, torch.nn.Module]:
    torch.manual_seed(1)
    official = Official(inputs, outputs, k, **arguments)
    given = {"in_channels": inputs, "out_channels": outputs, "kernel_size": k, "bias": False, **arguments}
    ours = build_layer("FDConv", given, {}).double().eval()
    state = layer_state(official.state)
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    state = {name: fit(tensor, shapes.get(name, tuple(tensor.shape))) for name, tensor in state.items()}
    left = ours.load_state_dict(state, strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {
        "temperature",
        "order",
        "branch.bn.num_batches_tracked",
    }
    indices = torch.stack([official.order // official.columns, official.order % official.columns])
    apply_auxiliary(ours, {"indices": indices.view(1, 2, official.n, -1)})
    return official, ours


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_every_argument_agrees_with_the_formulas(k, arguments) -> None:
    official, ours = official_and_ours(20, 24, k, arguments)
    x = torch.randn(2, 20, 9, 12, dtype=torch.float64) + torch.randn(2, 20, 1, 1, dtype=torch.float64)
    expected = official(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-6, atol=1e-7 * expected.abs().max().item())


def test_other_kernels_and_few_channels_become_dynamic() -> None:
    arguments = {"use_fdconv_if_c_gt": 4, "use_fdconv_if_k_in": [5], "use_fbm_if_k_in": [5], "padding": 2}
    official, ours = official_and_ours(6, 8, 5, arguments)
    x = torch.randn(2, 6, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), official(x), rtol=1e-6, atol=1e-6)
    assert not build_layer(
        "FDConv", {"in_channels": 20, "out_channels": 20, "kernel_size": 3, **arguments}, {}
    ).is_dynamic


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"ksm_local_act": "softmax"}, "local_activation must be sigmoid or tanh"),
        ({"ksm_global_act": "softmax"}, "softmax needs kernel_gates_only"),
        ({"spatial_freq_decompose": True}, "spatial_freq_decompose must be False"),
        ({"kernel_nun": 4}, "no argument 'kernel_nun' \\(did you mean 'kernel_num'"),
        ({"convert_param": False, "param_reduction": 0.5}, "param_reduction must be at least 1"),
        ({"fbm_cfg": {"act": "relu"}}, "bands: activation must be one of"),
        ({"fbm_cfg": {"spatial": "pool"}}, "spatial must be 'conv'"),
        ({"fbm_cfg": {"spatial_group": 3}}, "groups must divide in_channels=20"),
        ({"att_multi": 0}, "gate_scale must be positive"),
    ],
)
def test_what_the_official_layer_cannot_do_is_refused(arguments, text) -> None:
    given = {"in_channels": 20, "out_channels": 20, "kernel_size": 3, **arguments}
    with pytest.raises(ValueError, match=text):
        build_layer("FDConv", given, {})
