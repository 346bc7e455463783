"""Official ODConv layers (``OSVAI/ODConv``, ``modules/odconv.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.layers.odconv import ODConv2d

#: the official constructor's names for ours, and its defaults
_ARGUMENTS: dict[str, tuple[str, Any]] = {
    "stride": ("stride", 1),
    "padding": ("padding", 0),
    "dilation": ("dilation", 1),
    "groups": ("groups", 1),
    "reduction": ("reduction", 0.0625),
    "kernel_num": ("num_kernels", 4),
}


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for an official one.

    Args:
        official_class: ``"ODConv2d"``.
        arguments: Of its constructor.
        state: ``temperature``, set after construction; 1 if it is not there.

    Raises:
        ValueError: If the class is not one of the official ones.
    """
    if official_class != "ODConv2d":
        raise ValueError(f"official_class must be ODConv2d, got {official_class!r}")
    ours = {name: arguments.get(official, default) for official, (name, default) in _ARGUMENTS.items()}
    return ODConv2d(
        arguments["in_planes"],
        arguments["out_planes"],
        arguments["kernel_size"],
        bias=False,
        temperature=state.get("temperature", 1.0),
        **ours,
    )


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: ``attention`` is ``branch``, its 1x1 convolutions are linear layers.

    The official code does not save the temperature; it is not in the result either.
    """
    ours = {}
    for name, tensor in state.items():
        if name.startswith("attention."):
            name = f"branch.{name.removeprefix('attention.')}"
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        ours[name] = tensor
    return ours
