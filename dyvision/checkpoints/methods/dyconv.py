"""DyConv layers of ``kaijieshi7/Dynamic-convolution-Pytorch`` (``dynamic_conv.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.checkpoints.interface import REQUIRED, attention_as_branch, bind_arguments, check_class
from dyvision.layers.dyconv import DyConv2d

#: the reference starts its annealing here
TEMPERATURE = 34
#: the constructor; ``init_weight`` says how the weights start, which loaded ones do not
_DEFAULTS: dict[str, Any] = {
    **{"in_planes": REQUIRED, "out_planes": REQUIRED, "kernel_size": REQUIRED, "ratio": 0.25, "stride": 1},
    **{"padding": 0, "dilation": 1, "groups": 1, "bias": True, "K": 4, "temperature": TEMPERATURE, "init_weight": True},
}


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for one of the reference.

    Args:
        official_class: ``"Dynamic_conv2d"``.
        arguments: Of its constructor.
        state: ``temperature``, if it was changed after construction.

    Raises:
        ValueError: If the class is another one, or it has no such argument.
    """
    check_class(official_class, "Dynamic_conv2d")
    given = bind_arguments(official_class, arguments, _DEFAULTS)
    return DyConv2d(
        given["in_planes"],
        given["out_planes"],
        given["kernel_size"],
        num_kernels=given["K"],
        temperature=state.get("temperature", given["temperature"]),
        **{name: given[name] for name in ("stride", "padding", "dilation", "groups", "bias", "ratio")},
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
    # half a channel more, which the layer rounds down: the quotient itself may come out just too small
    return {**arguments, "ratio": (len(weight) - 0.5) / weight.shape[1]}


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: ``attention`` is ``branch``, its 1x1 convolutions are linear layers.

    The reference does not save the temperature; it is not in the result either.
    """
    return attention_as_branch(state)
