"""If these fail, official warehouses or mask heads with other options than the defaults compute something else here."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.checkpoints.interface import fit
from dyvision.checkpoints.methods.condinst import apply_auxiliary
from dyvision.checkpoints.methods.condinst import build_layer as build_head
from dyvision.checkpoints.methods.kernelwarehouse import build_layer, layer_state

NETWORK = "Warehouse_Manager + KWConv2d"


class Warehouses:
    """Manager and convolutions by the published formulas; parameters come into being with the first call."""

    def __init__(self, manager: dict, convs: list[dict], temperature: float = 0.0) -> None:
        self.manager, self.convs, self.t, self.state, self.training = manager, convs, temperature, {}, False
        sharing = manager.get("sharing_range", ())
        sharing = sharing.split("_") if isinstance(sharing, str) else sharing
        self.names = [
            "_".join(
                next((s for s in sharing if part.startswith(s)), part)
                for part in conv.get("warehouse_name", "default").split("_")
            )
            for conv in convs
        ]
        self.order = list(dict.fromkeys(n for n, c in zip(self.names, convs, strict=True) if c.get("enabled", True)))

    def get(self, name: str, *shape: int, shift: float = 0.0) -> Tensor:
        if name not in self.state:
            fan_in = math.prod(shape[1:]) if len(shape) > 1 else 9
            self.state[name] = torch.randn(shape, dtype=torch.float64) / max(fan_in, 1) ** 0.5 + shift
        assert self.state[name].shape == shape, name
        return self.state[name]

    def option(self, name: str, place: int, default: float = 1):
        value = self.manager.get(name, default)
        return value[place % len(value)] if isinstance(value, list) else value

    def bn(self, name: str, x: Tensor) -> Tensor:
        count = x.shape[1]
        weight, bias = self.get(f"{name}.weight", count, shift=1), self.get(f"{name}.bias", count)
        mean = self.get(f"{name}.running_mean", count)
        var = self.state.setdefault(f"{name}.running_var", torch.rand(count, dtype=torch.float64) + 0.5)
        return F.batch_norm(x, mean.clone(), var.clone(), weight, bias, self.training)

    def kernels(self, number: int, x: Tensor, starts: dict[int, int]) -> Tensor:
        """Kernels ``[B, O, I/groups, k, k]`` of one layer; ``starts`` says whose cells come next."""
        conv, place = self.convs[number], self.order.index(self.names[number])
        shapes = [
            (c["out_planes"], c["in_planes"] // c.get("groups", 1), c.get("kernel_size", 1))
            for c, n in zip(self.convs, self.names, strict=True)
            if n == self.names[number] and c.get("enabled", True)
        ]
        o = max(int(math.gcd(*(s[0] for s in shapes)) * self.option("cell_outplane_ratio", place)), 1)
        i = max(int(math.gcd(*(s[1] for s in shapes)) * self.option("cell_inplane_ratio", place)), 1)
        whole = not self.option("spatial_partition", place, True)
        pieces = [(1 if whole else s[2] ** 2, s[0] // o, s[1] // i) for s in shapes]
        ratio = self.option("cell_num_ratio", place)
        cells = max(int(sum(math.prod(p) for p in pieces) * ratio), 1)
        outputs, inputs, k = conv["out_planes"], conv["in_planes"] // conv.get("groups", 1), conv.get("kernel_size", 1)
        side = k if whole else 1
        weight = self.get(f"warehouse_manager.weights.{place}", cells, o, i, side, side)
        taps, down, across = 1 if whole else k * k, outputs // o, inputs // i
        count, name = taps * down * across, f"convs.{number}.attention"
        hidden = max(int(conv["in_planes"] * self.option("reduction", place, 0.0625)), 16)
        h = x.mean((2, 3)) @ self.get(f"{name}.fc1.weight", hidden, conv["in_planes"]).T
        if self.manager.get("norm_layer", "BatchNorm1d") == "BatchNorm1d":
            h = self.bn(f"{name}.norm1", h).relu()
        else:
            h = h + self.get(f"{name}.fc1.bias", hidden)
            weights = self.get(f"{name}.norm1.weight", hidden, shift=1), self.get(f"{name}.norm1.bias", hidden)
            h = F.layer_norm(h, (hidden,), *weights).relu()
        share, start = self.manager.get("nonlocal_basis_ratio", 1), starts.get(place, 0)
        if share >= 1:
            z = h @ self.get(f"{name}.fc2.weight", count * (cells + 1), hidden).T
            z = (z + self.get(f"{name}.fc2.bias", count * (cells + 1))).view(-1, count, cells + 1)
        else:
            local = int(ratio * count)
            basis = max(int((cells - local) * share), 16)
            z = (h @ self.get(f"{name}.fc2.weight", count * (local + basis + 1), hidden).T).view(len(x), count, -1)
            own, basis, zero = z.split([local, basis, 1], 2)
            others = basis @ self.get(f"{name}.fc3.weight", cells - local, basis.shape[2]).T
            z = torch.cat([others[..., :start], own, others[..., start:], zero], 2)
            z = z + self.get(f"{name}.basis_bias", count * (cells + 1)).view(count, -1)
        z = z / (z.abs().sum(2, keepdim=True) + 1e-3)
        fixed = torch.zeros(count, cells + 1, dtype=torch.float64)
        period = max(int(1 / ratio), 1)
        for piece in range(count):
            takes = ratio >= 1 or piece % period == (piece // period) % period
            fixed[piece, start if takes else cells] = 1
            start += max(int(ratio), 1) if takes else 0
        starts[place] = start
        alpha = ((1 - self.t) * z + self.t * fixed)[..., :-1]
        blocks = torch.einsum("bmn,nv->bmv", alpha, weight.flatten(1)).view(-1, taps, down, across, o, i, side, side)
        kernel = torch.zeros(len(x), outputs, inputs, k, k, dtype=torch.float64)
        for tap, a, b in itertools.product(range(taps), range(down), range(across)):
            y, z_ = divmod(tap, k)
            target = kernel[:, a * o : (a + 1) * o, b * i : (b + 1) * i]
            if whole:
                target.copy_(blocks[:, 0, a, b])
            else:
                target[..., y, z_] = blocks[:, tap, a, b, ..., 0, 0]
        return kernel

    def __call__(self, x: Tensor) -> Tensor:
        starts: dict[int, int] = {}
        for number, conv in enumerate(self.convs):
            geometry = {key: conv[key] for key in ("stride", "padding", "dilation", "groups") if key in conv}
            bias = conv.get("bias", True)
            if conv.get("enabled", True):
                kernels = self.kernels(number, x, starts)
                x = torch.cat([F.conv2d(s[None], w, **geometry) for s, w in zip(x, kernels, strict=True)])
            else:
                k, groups = conv.get("kernel_size", 1), conv.get("groups", 1)
                shape = (conv["out_planes"], conv["in_planes"] // groups, k, k)
                x = F.conv2d(x, self.get(f"convs.{number}.weight", *shape), **geometry)
            if bias:
                x = x + self.get(f"convs.{number}.bias", x.shape[1])[:, None, None]
            x = self.bn(f"bns.{number}", x)
            x = x.relu() if number < len(self.convs) - 1 else x
        return x


def conv(inputs: int, outputs: int, k: int, name: str, **options) -> dict:
    given = {"in_planes": inputs, "out_planes": outputs, "kernel_size": k, "warehouse_name": name, "bias": False}
    return {**given, "padding": k // 2, **options}


FIRST, SECOND = "stage0_layer0_conv0", "stage0_layer1_conv0"
ONE_STAGE = {"sharing_range": ["layer", "conv"]}
PAIR = [conv(8, 8, 3, FIRST), conv(8, 16, 3, SECOND, stride=2, bias=True)]
CASES = [
    ({}, [conv(6, 4, 3, FIRST, dilation=2, padding=2), conv(4, 10, 1, SECOND)], 0.0),
    (ONE_STAGE, PAIR, 0.0),
    ({"sharing_range": "layer_conv"}, PAIR, 0.4),
    ({**ONE_STAGE, "cell_num_ratio": 2, "reduction": 0.5}, [conv(40, 8, 1, FIRST), conv(8, 8, 1, SECOND)], 1.0),
    ({**ONE_STAGE, "cell_num_ratio": 0.5, "cell_inplane_ratio": 0.5, "cell_outplane_ratio": 0.5}, PAIR, 0.7),
    ({**ONE_STAGE, "cell_num_ratio": 4, "cell_inplane_ratio": 0.25}, PAIR, 0.2),
    ({**ONE_STAGE, "spatial_partition": False, "cell_outplane_ratio": 0.5, "cell_inplane_ratio": 0.5}, PAIR, 0.3),
    ({**ONE_STAGE, "norm_layer": "LayerNorm"}, PAIR, 0.0),
    ({**ONE_STAGE, "nonlocal_basis_ratio": 0.25, "cell_inplane_ratio": 0.5}, PAIR, 0.0),
    # a warehouse of one layer has no cells of others
    ({"nonlocal_basis_ratio": 0.5}, [conv(4, 8, 1, FIRST), conv(8, 4, 3, SECOND)], 0.5),
    (
        {
            "cell_num_ratio": [1, 2],
            "reduction": [0.25],
            "spatial_partition": [True, False],
            "norm_layer": "nn.LayerNorm",
        },
        [conv(8, 6, 1, FIRST), conv(6, 6, 5, "a", enabled=False, groups=2), conv(6, 6, 3, SECOND, groups=6)],
        0.6,
    ),
    (ONE_STAGE, [{"in_planes": 3, "out_planes": 5}, {"in_planes": 5, "out_planes": 2, "kernel_size": 2}], 0.0),
]


@pytest.mark.parametrize(("manager", "convs", "temperature"), CASES, ids=str)
def test_every_option_of_the_manager_and_of_reserve(manager, convs, temperature) -> None:
    torch.manual_seed(2)
    official = Warehouses(manager, convs, temperature)
    x = torch.randn(5, convs[0]["in_planes"], 8, 7, dtype=torch.float64) + torch.randn(5, 1, 1, 1).double()
    official(x)
    ours = build_layer(NETWORK, {"manager": manager, "convs": convs}, {"temp_value": temperature}).double()
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    state = {name: fit(tensor, shapes.get(name, ())) for name, tensor in layer_state(official.state).items()}
    left = ours.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in left.missing_keys)
    for training in (False, True):
        official.training = training
        expected = official(x)
        # t is kept in float32
        torch.testing.assert_close(
            ours.train(training)(x), expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item()
        )


@pytest.mark.parametrize(
    ("manager", "options", "text"),
    [
        ({"reduction": [1, 2, 3]}, {}, "reduction must be a number, or a list of 1 or 2"),
        ({"nonlocal_basis_ratio": [1, 2]}, {}, "nonlocal_basis_ratio must be a single value"),
        ({"norm_layer": "GroupNorm"}, {}, "norm_layer must be one of BatchNorm1d, LayerNorm"),
        ({"cell_ratio": 1}, {}, "Warehouse_Manager has no argument 'cell_ratio'"),
        ({}, {"layer_type": "conv1d"}, "layer_type must be 'conv2d', got 'conv1d'"),
        ({}, {"reductions": 1}, "reserve has no argument 'reductions'"),
        ({}, {"warehouse": 1}, "mean 'warehouse_name'"),
    ],
)
def test_what_is_not_there_is_refused(manager, options, text) -> None:
    convs = [conv(4, 4, 1, "a", **options), conv(4, 4, 1, "b")]
    with pytest.raises(ValueError, match=text):
        build_layer(NETWORK, {"manager": manager, "convs": convs}, {})


HEADS = [
    {},
    {"num_layers": 2, "channels": 5, "in_channels": 3},
    {"num_layers": 4, "relative_coordinates": False, "mask_out_stride": 8},
    {"disable_rel_coords": True, "mask_feat_stride": 16, "mask_out_stride": 4},
    {"mask_feat_stride": 4, "mask_out_stride": 2, "sizes_of_interest": [10, 20], "in_channels": 2, "channels": 4},
]


@pytest.mark.parametrize("options", HEADS, ids=str)
def test_every_option_of_the_mask_head(options) -> None:
    torch.manual_seed(4)
    inputs, channels = options.get("in_channels", 8), options.get("channels", 8)
    stride, out_stride = options.get("mask_feat_stride", 8), options.get("mask_out_stride", 4)
    relative = options.get("relative_coordinates", not options.get("disable_rel_coords", False))
    sizes = [*options.get("sizes_of_interest", [64, 128, 256, 512])]
    sizes.append(2 * sizes[-1])
    widths = [inputs + 2 * relative, *[channels] * (options.get("num_layers", 3) - 1), 1]
    weights = [(a, b) for a, b in itertools.pairwise(widths)]
    total = sum(a * b + b for a, b in weights)
    features, parameters = torch.randn(2, inputs, 5, 4).double(), torch.randn(3, total).double()
    places, images, levels = torch.rand(3, 2).double() * 60, torch.tensor([1, 0, 1]), torch.tensor([0, 2, 1])
    expected = []
    for n in range(3):
        x = features[images[n]]
        if relative:
            ys, xs = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing="ij")
            grid = torch.stack([xs, ys]).double() * stride + stride // 2
            x = torch.cat([(places[n][:, None, None] - grid) / sizes[levels[n]], x])
        kernels, biases = parameters[n].split([sum(a * b for a, b in weights), sum(b for _, b in weights)])
        kernels, biases = kernels.split([a * b for a, b in weights]), biases.split([b for _, b in weights])
        for number, ((a, b), w, c) in enumerate(zip(weights, kernels, biases, strict=True)):
            x = torch.einsum("oi,ihw->ohw", w.view(b, a), x) + c[:, None, None]
            x = x.relu() if number < len(weights) - 1 else x
        f = stride // out_stride
        if f > 1:
            # output p lies at input (p - f // 2) / f, held at the borders
            rows, columns = (((torch.arange(n * f) - f // 2) / f).clamp(0, n - 1).double() for n in (5, 4))
            x = along(along(x, rows, 1), columns, 2)
        expected.append(x)
    head = build_head("DynamicMaskHead", {**options, "num_gen_params": total}, {})
    apply_auxiliary(head, {"im_inds": images, "fpn_levels": levels})
    torch.testing.assert_close(head(features, parameters, places), torch.stack(expected))


def along(x: Tensor, places: Tensor, axis: int) -> Tensor:
    """Linear interpolation of one axis at fractional places."""
    low = places.floor().long()
    high = (low + 1).clamp_max(x.shape[axis] - 1)
    part = (places - low).view([-1 if number == axis else 1 for number in range(x.ndim)])
    return x.index_select(axis, low) * (1 - part) + x.index_select(axis, high) * part
