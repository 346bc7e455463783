"""Official dynamic group convolutions (``zhuogege1943/dgc``, ``layers.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.layers.dgc import DGConv2d


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for an official one.

    Args:
        official_class: ``"DynamicMultiHeadConv"``.
        arguments: Of its constructor.
        state: ``global_progress`` and ``inactive_channels``, set after construction.

    Raises:
        ValueError: If the class is not one of the official ones.
    """
    if official_class != "DynamicMultiHeadConv":
        raise ValueError(f"official_class must be DynamicMultiHeadConv, got {official_class!r}")
    names = ("stride", "padding", "dilation", "heads", "squeeze_rate", "gate_factor")
    layer = DGConv2d(
        arguments["in_channels"],
        arguments["out_channels"],
        arguments["kernel_size"],
        bias=False,
        pre_activation=True,
        **{name: arguments[name] for name in names if name in arguments},
    )
    if "inactive_channels" in state:
        layer.inactive_channels.fill_(int(state["inactive_channels"]))
    elif "global_progress" in state:
        layer.set_progress(state["global_progress"])
    return layer


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: the heads side by side, their output channels interleaved."""
    heads: dict[str, list[Tensor]] = {}
    ours = {}
    # in the order of the heads, whatever that of the names
    for name, tensor in sorted(state.items(), key=lambda item: _head(item[0])):
        if name.startswith("headconv_"):
            heads.setdefault(name.split(".", 1)[1], []).append(tensor)
        elif name == "_inactive_channels":
            ours["inactive_channels"] = tensor.reshape(()).round().long()
        else:
            ours[name] = tensor
    for name, tensors in heads.items():
        if name == "conv.weight":
            ours["weight"] = torch.stack(tensors, 1).flatten(0, 1)
        elif name == "fc1.weight":
            ours["branch.fc1.weight"] = torch.cat(tensors)
        elif name in ("fc2.weight", "fc2.bias"):
            ours[name.replace("fc2", "branch")] = torch.stack(tensors)
        else:
            raise ValueError(f"unknown parameter of an official head: {name!r}")
    return ours


def _head(name: str) -> int:
    first = name.split(".", 1)[0]
    return int(first.removeprefix("headconv_")) if first.startswith("headconv_") else -1
