"""CondConv layers of ``d-li14/condconv.pytorch`` (``condconv.py``) as ours; timm's are in ``timm.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.checkpoints import timm as timm_condconv
from dyvision.layers.condconv import CondConv2d

_ROUTED = "route_func + CondConv2d"


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for one of the references.

    Args:
        official_class: ``"route_func + CondConv2d"``: routing and layer together, called with the input; or timm's
            ``"CondConv2d"``, called with the input and the routing weights.
        arguments: Of the constructor.
        state: Nothing is set after construction.

    Raises:
        ValueError: If the class is another one.
    """
    if official_class == timm_condconv.CLASS:
        return timm_condconv.build_layer(official_class, arguments, state)
    if official_class != _ROUTED:
        raise ValueError(f"official_class must be {timm_condconv.CLASS!r} or {_ROUTED!r}, got {official_class!r}")
    names = ("stride", "padding", "dilation", "groups", "bias")
    return CondConv2d(
        arguments["in_channels"],
        arguments["out_channels"],
        arguments["kernel_size"],
        num_kernels=arguments.get("num_experts", 1),
        **{name: arguments[name] for name in names if name in arguments},
    )


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict, with or without its routing; timm's flat kernels stay flat.

    Nothing in a flat kernel says how it unfolds: whoever loads it gives it the shape of the layer's.
    """
    renamed = {re.sub(r"^route\.", "branch.", name.removeprefix("conv.")): tensor for name, tensor in state.items()}
    return timm_condconv.layer_state(renamed)
