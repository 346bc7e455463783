"""CondConv layers of ``d-li14/condconv.pytorch`` (``condconv.py``) as ours; timm's are in ``timm.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.checkpoints.interface import REQUIRED, bind_arguments, check_class
from dyvision.checkpoints.methods import timm as timm_condconv
from dyvision.layers.condconv import CondConv2d

_ROUTED = "route_func + CondConv2d"
_DEFAULTS: dict[str, Any] = {
    **{"in_channels": REQUIRED, "out_channels": REQUIRED, "kernel_size": REQUIRED, "stride": 1, "padding": 0},
    **{"dilation": 1, "groups": 1, "bias": True, "num_experts": 1},
}
_OWN_DEFAULTS = {name: default for name, default in _DEFAULTS.items() if default is not REQUIRED}


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for one of the references.

    Args:
        official_class: ``"route_func + CondConv2d"``: routing and layer together, called with the input; or
            ``"CondConv2d"``, called with the input and the routing weights: timm's, or with arguments of
            :func:`adapt` the one of this file.
        arguments: Of the constructor.
        state: Nothing is set after construction.

    Raises:
        ValueError: If the class is another one, or it has no such argument.
    """
    if official_class == timm_condconv.CLASS:
        return timm_condconv.build_layer(official_class, arguments, state)
    check_class(official_class, timm_condconv.CLASS, _ROUTED)
    given = bind_arguments(official_class, arguments, _DEFAULTS)
    return CondConv2d(
        given["in_channels"],
        given["out_channels"],
        given["kernel_size"],
        num_kernels=given["num_experts"],
        **{name: given[name] for name in ("stride", "padding", "dilation", "groups", "bias")},
    )


def adapt(arguments: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments with the defaults of the class whose parameters these are: timm's of the same name keeps flat kernels.

    The two classes differ in defaults only: padding, bias and number of kernels.
    """
    weight = parameters.get("weight")
    return dict(arguments) if weight is None or weight.ndim == 2 else {**_OWN_DEFAULTS, **arguments}


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict, with or without its routing; timm's flat kernels stay flat.

    Nothing in a flat kernel says how it unfolds: whoever loads it gives it the shape of the layer's.
    """
    renamed = {re.sub(r"^route\.", "branch.", name.removeprefix("conv.")): tensor for name, tensor in state.items()}
    return timm_condconv.layer_state(renamed)
