"""Official ODConv layers (``OSVAI/ODConv``, ``modules/odconv.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.checkpoints.interface import REQUIRED, attention_as_branch, bind_arguments, check_class
from dyvision.layers.odconv import ODConv2d

#: the official constructor
_DEFAULTS: dict[str, Any] = {
    **{"in_planes": REQUIRED, "out_planes": REQUIRED, "kernel_size": REQUIRED, "stride": 1, "padding": 0},
    **{"dilation": 1, "groups": 1, "reduction": 0.0625, "kernel_num": 4},
}
#: of the attention, whatever the reduction; an argument of the official attention that its layer never passes
_MIN_CHANNEL = 16
#: in place of a reduction of zero: both leave the smallest width
_NEXT_TO_NONE = 1e-9


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for an official one.

    Args:
        official_class: ``"ODConv2d"``.
        arguments: Of its constructor.
        state: ``temperature``, set after construction; 1 if it is not there.

    Raises:
        ValueError: If the class is not one of the official ones, or it has no such argument.
    """
    check_class(official_class, "ODConv2d")
    given = bind_arguments(official_class, arguments, _DEFAULTS)
    return ODConv2d(
        given["in_planes"],
        given["out_planes"],
        given["kernel_size"],
        bias=False,
        num_kernels=given["kernel_num"],
        reduction=given["reduction"] or _NEXT_TO_NONE,
        min_width=_MIN_CHANNEL,
        temperature=state.get("temperature", 1.0),
        **{name: given[name] for name in ("stride", "padding", "dilation", "groups")},
    )


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: ``attention`` is ``branch``, its 1x1 convolutions are linear layers.

    The official code does not save the temperature; it is not in the result either.
    """
    return attention_as_branch(state)
