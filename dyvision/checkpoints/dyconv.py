"""DyConv layers of ``kaijieshi7/Dynamic-convolution-Pytorch`` (``dynamic_conv.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.layers.dyconv import DyConv2d

#: the reference starts its annealing here
TEMPERATURE = 34


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for one of the reference.

    Args:
        official_class: ``"Dynamic_conv2d"``.
        arguments: Of its constructor.
        state: ``temperature``, if it was changed after construction.

    Raises:
        ValueError: If the class is another one.
    """
    if official_class != "Dynamic_conv2d":
        raise ValueError(f"official_class must be Dynamic_conv2d, got {official_class!r}")
    names = ("stride", "padding", "dilation", "groups", "bias", "ratio")
    return DyConv2d(
        arguments["in_planes"],
        arguments["out_planes"],
        arguments["kernel_size"],
        num_kernels=arguments.get("K", 4),
        temperature=state.get("temperature", arguments.get("temperature", TEMPERATURE)),
        **{name: arguments[name] for name in names if name in arguments},
    )


def with_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add a bias of zero to attentions that have none, as in an older version of the reference."""
    biases = {
        name.replace("fc2.weight", "fc2.bias"): tensor.new_zeros(len(tensor))
        for name, tensor in state.items()
        if name.endswith("attention.fc2.weight")
    }
    return {**biases, **state}


def adapt(arguments: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments with the ratio that gives the attention's hidden layer its width, which versions round differently."""
    weight = parameters.get("attention.fc1.weight")
    if weight is None or weight.shape[1] == 3:
        return dict(arguments)
    return {**arguments, "ratio": (len(weight) - 1) / weight.shape[1]}


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: ``attention`` is ``branch``, its 1x1 convolutions are linear layers.

    The reference does not save the temperature; it is not in the result either.
    """
    ours = {}
    for name, tensor in state.items():
        if name.startswith("attention."):
            name = f"branch.{name.removeprefix('attention.')}"
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        ours[name] = tensor
    return ours
