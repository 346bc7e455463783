"""Official dynamic group convolutions (``hellozhuo/dgc``, ``layers.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.checkpoints.interface import REQUIRED, bind_arguments, check_class, widen
from dyvision.layers.dgc import PRUNING, DGConv2d

_DEFAULTS: dict[str, Any] = {
    **{"in_channels": REQUIRED, "out_channels": REQUIRED, "kernel_size": REQUIRED, "stride": 1, "padding": 0},
    **{"dilation": 1, "heads": 4, "squeeze_rate": 16, "gate_factor": 0.25},
}


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for an official one.

    Args:
        official_class: ``"DynamicMultiHeadConv"``.
        arguments: Of its constructor.
        state: ``global_progress`` and ``inactive_channels``, set after construction. As in the official class, the
            first counts in training only, and from a twelfth on replaces the second.

    Raises:
        ValueError: If the class is not one of the official ones, or it has no such argument.
    """
    check_class(official_class, "DynamicMultiHeadConv")
    layer = DGConv2d(bias=False, pre_activation=True, **bind_arguments(official_class, arguments, _DEFAULTS))
    if "inactive_channels" in state:
        layer.inactive_channels.fill_(int(state["inactive_channels"]))
    follow_progress(layer, state.get("global_progress", 0.0))
    return layer


def follow_progress(model: nn.Module, progress: float) -> None:
    """Let every dynamic group convolution of a model drop what the official code drops at this progress, in training.

    It sets the number in the forward pass, and only past the start of the pruning; in evaluation the saved one counts.
    """

    def drop(layer: DGConv2d, inputs: tuple[Tensor, ...]) -> None:
        if layer.training:
            layer.set_progress(progress)

    if progress > PRUNING[0]:
        for module in model.modules():
            if isinstance(module, DGConv2d):
                module.register_forward_pre_hook(drop)


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: the heads side by side, their output channels interleaved."""
    heads: dict[str, list[Tensor]] = {}
    ours = {}
    # in the order of the heads, whatever that of the names
    for name, tensor in sorted(state.items(), key=lambda item: _head(item[0])):
        if name.startswith("headconv_"):
            heads.setdefault(name.split(".", 1)[1], []).append(widen(tensor))
        elif name == "_inactive_channels":
            ours["inactive_channels"] = tensor.reshape(()).round()
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
