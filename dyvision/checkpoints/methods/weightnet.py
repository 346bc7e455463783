"""Official WeightNet layers and networks (``megvii-model/WeightNet``, MegEngine) as ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.backbones.published.weightnet_shufflenetv2 import (
    REPEATS,
    STAGES,
    WIDTHS,
    WeightNetShuffleNetV2,
    WeightNetShuffleUnit,
)
from dyvision.checkpoints.interface import REQUIRED, bind_arguments, check_arguments, check_class
from dyvision.checkpoints.shapes import Shapes, classes_of
from dyvision.layers.weightnet import WeightNetConv2d

#: ends of official names and ours
_RENAMES = (
    (re.compile(r"\bwnet_proj_(\d)\b"), r"proj_conv\1"),
    (re.compile(r"\bbn_proj_(\d)\b"), r"proj_bn\1"),
    (re.compile(r"\bwnet(\d)\b"), r"conv\1"),
    (re.compile(r"\bwn_fc1\b"), "activation.fc"),
    (re.compile(r"\bwn_fc2\."), ""),
    (re.compile(r"\breduce\b"), "coefficient_branch.fc"),
    (re.compile(r"^first_conv\b"), "conv1"),
    (re.compile(r"^conv_last\b"), "conv5"),
    (re.compile(r"^classifier\.0\b"), "fc"),
)
#: the official constructors; M and G are attributes of the layers there, 2 in the released networks
_LAYER = {"ksize": REQUIRED, "stride": REQUIRED, "M": 2, "G": 2}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "WeightNet": {"inp": REQUIRED, "oup": REQUIRED, **_LAYER},
    "WeightNet_DW": {"inp": REQUIRED, **_LAYER},
    "ShuffleV2Block": {name: REQUIRED for name in ("inp", "oup", "mid_channels", "ksize", "stride")},
    "ShuffleNetV2": {"input_size": 224, "num_classes": 1000, "model_size": "1.5x"},
}
_FC1 = "wn_fc1.weight"
_UNIT = re.compile(r"^features\.(\d+)\b")


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer, unit or network for an official one.

    Args:
        official_class: ``"WeightNet"`` and ``"WeightNet_DW"`` (called with the reduced vector), ``"ShuffleV2Block"`` or
            ``"ShuffleNetV2"``.
        arguments: Of its constructor; for the layers also ``M`` and ``G``.
        state: Nothing is set after construction.

    Raises:
        ValueError: If the class is not one of the official ones, or it has no such argument.
    """
    check_class(official_class, *_DEFAULTS)
    given = bind_arguments(official_class, arguments, _DEFAULTS[official_class])
    if official_class in ("WeightNet", "WeightNet_DW"):
        inputs, kernel_size = given["inp"], given["ksize"]
        depthwise = official_class == "WeightNet_DW"
        return WeightNetConv2d(
            inputs,
            inputs if depthwise else given["oup"],
            kernel_size,
            stride=given["stride"],
            padding=kernel_size // 2,
            groups=inputs if depthwise else 1,
            bias=False,
            multiplier=given["M"],
            generator_groups=given["G"],
            branch=False,
        )
    if official_class == "ShuffleV2Block":
        return WeightNetShuffleUnit(
            given["inp"],
            given["oup"],
            given["mid_channels"],
            given["ksize"],
            given["stride"],
            split=given["stride"] == 1,
        )
    return build_network(given, {})


def build_network(arguments: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    """Build our network for ``ShuffleNetV2``, by the shapes of its parameters where there are any.

    Raises:
        ValueError: If ``model_size`` is none of the official ones, or there is no such argument.
    """
    # widths and input channels are those of the shapes
    check_arguments("ShuffleNetV2", arguments, (*_DEFAULTS["ShuffleNetV2"], "widths", "in_chans"))
    size = str(arguments.get("model_size", "1.5x")).removesuffix("x")
    classes = classes_of(shapes) or arguments.get("num_classes", 1000)
    first = f"features.0.wnet1.{_FC1}"
    if first not in shapes:
        return WeightNetShuffleNetV2(size, classes)
    # the middle of a stage's first unit has half the channels of the stage
    starts = (0, *(sum(REPEATS[:stage]) for stage in range(1, len(REPEATS))))
    stages = (2 * math.prod(shapes[f"features.{number}.bn1.weight"]) for number in starts)
    channels = (shapes["first_conv.0.weight"][0], *stages, shapes["conv_last.0.weight"][0])
    width = next((known for known, widths in WIDTHS.items() if widths == channels), channels)
    multiplier = shapes[first][0] * 2 // channels[1]
    # each group of the generating layer sees M / G activations
    groups = multiplier // shapes["features.0.wnet1.wn_fc2.weight"][-3]
    in_chans = shapes["first_conv.0.weight"][1]
    return WeightNetShuffleNetV2(width, classes, in_chans, multiplier=multiplier, generator_groups=groups)


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the state dict of a layer, a unit or a network.

    Grouped weights may have MegEngine's five dimensions or four, vectors may be ``[1, C, 1, 1]``.
    """
    return {_rename(name): _reshape(name, tensor) for name, tensor in state.items()}


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    unit = _UNIT.match(name)
    if unit is None:
        return name
    index = int(unit[1])
    for stage, repeats in zip(STAGES, REPEATS, strict=True):
        if index < repeats:
            return f"{stage}.{index}{name[unit.end() :]}"
        index -= repeats
    raise ValueError(f"{name}: the network has {sum(REPEATS)} units")


def _reshape(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim < 2 or name.startswith("classifier"):
        return tensor
    if name.endswith("wn_fc2.weight"):
        # [outputs, inputs per group, 1, 1] or [groups, outputs per group, inputs per group, 1, 1]
        return tensor.reshape(-1, tensor.shape[-3])
    if name.endswith(("wn_fc1.weight", "reduce.weight")):
        return tensor.flatten(1)
    # what remains with more than one dimension: weights of static convolutions, and vectors [1, C, 1, 1]
    is_vector = tensor.ndim == 4 and tensor.shape[0] == 1 and tensor.shape[2:] == (1, 1)
    return tensor.flatten() if is_vector else tensor
