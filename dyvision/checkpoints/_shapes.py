"""What the shapes of an official state dict say about the network: depths, widths, and arguments of its layers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dyvision.layers.dcd_branch import dimensions
from dyvision.layers.dgc import gates_width

Shapes = Mapping[str, tuple[int, ...]]

#: MobileNetV2's stages: expansion, channels, blocks, stride
MOBILENETV2 = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)),
    *((6, 160, 3, 2), (6, 320, 1, 1)),
)
#: widths are rounded down from a ratio: the quotient of two widths itself may come out just too small
_ROUNDED = 1 + 1e-12
_SQUEEZES = (16, 8, 4, 2, 32, 1)


@dataclass(frozen=True)
class ResNetPlan:
    """Structure of a ResNet.

    Attributes:
        stem: Channels of the first convolution.
        widths: ``planes`` of the four stages: channels of a basic block, a quarter of a bottleneck's.
        blocks: Blocks of the four stages.
        bottleneck: Whether blocks have three convolutions.
        cardinality: Groups of a bottleneck's 3x3 convolution.
        base_width: Width of a bottleneck's 3x3 convolution, per group and 64 planes.
    """

    stem: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    bottleneck: bool
    cardinality: int = 1
    base_width: int = 64


@dataclass(frozen=True)
class MobileNetPlan:
    """Structure of a MobileNetV2.

    Attributes:
        stem: Channels of the first convolution.
        stages: Expansion, channels, blocks and stride of each stage.
        head: Channels of the last convolution.
    """

    stem: int
    stages: tuple[tuple[float, int, int, int], ...]
    head: int


def shapes_of(parameters: Mapping[str, Tensor] | Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by name; empty if there are only names."""
    return {name: tuple(tensor.shape) for name, tensor in parameters.items()} if isinstance(parameters, Mapping) else {}


def resnet_plan(names: Iterable[str], shapes: Shapes, arguments: Mapping[str, Any]) -> ResNetPlan:
    """Structure of a ResNet from the names of its parameters, and their shapes or the constructor's arguments.

    Raises:
        ValueError: If there are no blocks of four stages.
    """
    blocks: dict[str, int] = {}
    bottleneck = False
    for name in names:
        place = re.match(r"layer([1-4])\.(\d+)\.", name)
        if place:
            blocks[place[1]] = max(blocks.get(place[1], 0), int(place[2]) + 1)
            bottleneck = bottleneck or ".conv3." in name
    if sorted(blocks) != ["1", "2", "3", "4"]:
        raise ValueError(f"a ResNet has blocks in layer1 to layer4, but these names have {sorted(blocks) or 'none'}")
    depths = tuple(blocks[stage] for stage in sorted(blocks))
    cardinality, base_width = arguments.get("groups", 1), arguments.get("width_per_group", 64)
    last = "bn3" if bottleneck else "bn2"
    if f"layer1.0.{last}.weight" not in shapes:
        widths = tuple(int(width) for width in arguments.get("widths", (64, 128, 256, 512)))
        if len(widths) != 4:
            raise ValueError(f"widths must be four numbers, one per stage, got {list(widths)}")
        stem = int(arguments.get("inplanes", widths[0] if "widths" in arguments else 64))
        return ResNetPlan(stem, widths, depths, bottleneck, cardinality, base_width)
    expansion = 4 if bottleneck else 1
    widths = tuple(shapes[f"layer{stage}.0.{last}.weight"][0] // expansion for stage in range(1, 5))
    if bottleneck:
        inner, kernel = shapes["layer1.0.bn2.weight"][0], _kernel_of(shapes, "layer1.0.conv2")
        if kernel is not None:
            cardinality = inner // kernel[1]
        # rounded up: the width is floored from it
        base_width = math.ceil(inner / cardinality * 64 / widths[0])
    return ResNetPlan(shapes["bn1.weight"][0], widths, depths, bottleneck, cardinality, base_width)


def mobilenetv2_plan(
    shapes: Shapes, arguments: Mapping[str, Any], ends: Sequence[tuple[str, str]], head: str
) -> MobileNetPlan:
    """Structure of a MobileNetV2.

    Args:
        shapes: Of the official parameters; empty if only the arguments are known.
        arguments: Of the official constructor.
        ends: Official names of the first and of the last norm of each block, in order.
        head: Official name of the last convolution's norm.
    """
    setting = [tuple(stage) for stage in arguments.get("inverted_residual_setting") or MOBILENETV2]
    stem_norm = "features.0.1.weight"
    if stem_norm not in shapes:
        width, divisor = arguments.get("width_mult", 1.0), arguments.get("round_nearest", 8)
        # so far the only width at which DCD's and ODConv's own rounding differs
        divisor = 4 if width == 0.1 and "round_nearest" not in arguments else divisor
        stages = tuple((t, make_divisible(c * width, divisor), n, s) for t, c, n, s in setting)
        return MobileNetPlan(
            make_divisible(32 * width, divisor), stages, make_divisible(1280 * max(width, 1.0), divisor)
        )
    stages, number, inputs = (), 0, shapes[stem_norm][0]
    for t, _, n, s in setting:
        first, last = ends[number]
        if f"{last}.weight" not in shapes:
            raise ValueError(f"no {last}.weight among the parameters: this is no MobileNetV2 with {number + 1} blocks")
        outputs = shapes[f"{last}.weight"][0]
        expansion = t if t == 1 else shapes[f"{first}.weight"][0] / inputs
        stages = (*stages, (expansion, outputs, n, s))
        inputs, number = outputs, number + n
    return MobileNetPlan(shapes[stem_norm][0], stages, shapes[f"{head}.weight"][0])


def make_divisible(value: float, divisor: int) -> int:
    """Round to a multiple, at least one and not below 90 %: how MobileNets round their widths."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def classes_of(shapes: Shapes) -> int | None:
    """Outputs of the classifier; None if no parameter is one's."""
    for name, shape in shapes.items():
        if re.fullmatch(r"(fc|head|classifier)(\.\d)?\.(cls\.|conv\.)?(weight|bias)", name):
            # CondConv's classifier has one axis more, of the kernels
            return shape[1 if len(shape) == 5 else 0]
    return None


def num_kernels(shapes: Shapes, suffix: str) -> int | None:
    """Length of the first parameter with this ending: logits, one per kernel."""
    return next((shape[0] for name, shape in shapes.items() if name.endswith(suffix)), None)


def odconv_reduction(shapes: Shapes) -> float:
    """A reduction with ``max(int(C_in * reduction), 16)`` hidden channels in every layer."""
    layers = list(_matrices(shapes, ".attention.fc.weight"))
    wide = [hidden / inputs for hidden, inputs in layers if hidden > 16]
    if wide:
        return max(wide) * _ROUNDED
    # all at the lower bound: what is customary, where that gives 16 too
    largest = max((inputs for _, inputs in layers), default=1)
    return 1 / 16 if largest // 16 <= 16 else 16 / largest


def dyconv_ratio(shapes: Shapes) -> float:
    """A ratio with ``int(C_in * ratio) + 1`` hidden channels in every layer; three inputs have K instead."""
    layers = [(hidden, inputs) for hidden, inputs in _matrices(shapes, "attention.fc1.weight") if inputs != 3]
    return max(((hidden - 1) / inputs for hidden, inputs in layers), default=0.25) * _ROUNDED or _ROUNDED - 1


def dcd_squeeze(shapes: Shapes, form: str, default: int) -> int:
    """The ``squeeze`` that gives every layer's branch its width; the default where several do."""
    sizes = []
    for name, shape in shapes.items():
        prefix, found, _ = name.rpartition(".fc.0.weight")
        if found and f"{prefix}.fc_scale.weight" in shapes and f"{prefix}.cls.weight" not in shapes:
            kernel = shapes[f"{prefix}.conv.weight"]
            sizes.append((kernel[1], kernel[0], max(shape[0], 1)))
    for squeeze in (default, *_SQUEEZES, *range(1, 257)):
        if all(dimensions(inputs, outputs, form, squeeze)[2] == width for inputs, outputs, width in sizes):
            return squeeze
    raise ValueError("no fc_squeeze gives the branches of these DCD layers their widths")


def dgc_heads(shapes: Shapes, heads: int, squeeze_rate: int) -> tuple[int, int]:
    """Heads and squeeze rate of a network's dynamic group convolutions; the given ones where there are no shapes.

    Raises:
        ValueError: If no squeeze rate gives every layer's gates their width.
    """
    found = {int(number[1]) for name in shapes for number in [re.search(r"\.headconv_(\d+)\.", name)] if number}
    layers = list(_matrices(shapes, ".headconv_0.fc1.weight"))
    for rate in (squeeze_rate, *range(1, 257)):
        if all(gates_width(inputs, rate) == max(hidden, 1) for hidden, inputs in layers):
            return (max(found) + 1 if found else heads), rate
    raise ValueError("no squeeze_rate gives the gates of these dynamic group convolutions their widths")


def _matrices(shapes: Shapes, ending: str) -> Iterator[tuple[int, int]]:
    for name, shape in shapes.items():
        if name.endswith(ending):
            yield shape[0], shape[1]


def _kernel_of(shapes: Shapes, layer: str) -> tuple[int, ...] | None:
    """``[O, I/groups, kH, kW]`` of a layer's kernels, wherever its method keeps them; None if in a warehouse."""
    for name in (f"{layer}.weight", f"{layer}.conv.weight"):
        if name in shapes:
            return shapes[name][-4:]
    return None
