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
