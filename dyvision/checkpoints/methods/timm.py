"""timm's CondConv layers (``timm/layers/cond_conv2d.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.checkpoints.interface import REQUIRED, bind_arguments, check_class
from dyvision.layers.condconv import CondConv2d
from dyvision.ops.geometry import pair

CLASS = "CondConv2d"
_DEFAULTS: dict[str, Any] = {
    **{"in_channels": REQUIRED, "out_channels": REQUIRED, "kernel_size": 3, "stride": 1, "padding": ""},
    **{"dilation": 1, "groups": 1, "bias": False, "num_experts": 4},
}


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for timm's, without a branch: it is called with the input and the routing weights.

    Args:
        official_class: ``"CondConv2d"``.
        arguments: Of its constructor; ``padding`` may be ``""`` (symmetric), ``"same"``, ``"valid"`` or numbers.
        state: Nothing is set after construction.

    Raises:
        ValueError: If the class is another one, or it has no such argument.
    """
    check_class(official_class, CLASS)
    given = bind_arguments(official_class, arguments, _DEFAULTS)
    stride, dilation, padding = given["stride"], given["dilation"], given["padding"]
    if isinstance(padding, str) and padding.lower() in ("same", "valid"):
        padding = padding.lower()
    elif isinstance(padding, str):
        sizes = zip(
            pair("kernel_size", given["kernel_size"], 1),
            pair("stride", stride, 1),
            pair("dilation", dilation, 1),
            strict=True,
        )
        padding = tuple(((step - 1) + spacing * (size - 1)) // 2 for size, step, spacing in sizes)
    return CondConv2d(
        given["in_channels"],
        given["out_channels"],
        given["kernel_size"],
        stride,
        padding,
        dilation,
        given["groups"],
        bias=given["bias"],
        num_kernels=given["num_experts"],
        branch=False,
    )


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: the names are ours, kernels stay flat, ``[K, numbers of one kernel]``."""
    return dict(state)
