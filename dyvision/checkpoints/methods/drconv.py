"""Layers of the unofficial DRConv port (``shallowtoil/DRConv-PyTorch``, ``drconv.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.checkpoints.interface import REQUIRED, bind_arguments, check_class
from dyvision.layers.drconv import DRConv2d

_DEFAULTS: dict[str, Any] = {
    **{"in_channels": REQUIRED, "out_channels": REQUIRED, "kernel_size": REQUIRED, "region_num": 8},
    **{"stride": 1, "padding": 0, "dilation": 1},
}
#: what its ``**kwargs`` let through and its forward pass stumbles over
_REFUSED = {
    "groups": "the reference passes it a second time to its convolution and cannot run",
    **{
        name: "the reference hands it to torch's functional convolution, which does not take it, and cannot run"
        for name in ("bias", "padding_mode", "device", "dtype")
    },
}
_NAMES = {
    "conv_kernel.1.weight": "branch.hidden.weight",
    "conv_kernel.1.bias": "branch.hidden.bias",
    "conv_kernel.3.weight": "branch.weight",
    "conv_kernel.3.bias": "branch.bias",
    "conv_guide.weight": "guide.weight",
    "conv_guide.bias": "guide.bias",
}


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for one of the reference.

    Args:
        official_class: ``"DRConv2d"``.
        arguments: Of its constructor.
        state: Not used.

    Raises:
        ValueError: If the class is another one, it has no such argument, or cannot run with it.
    """
    check_class(official_class, "DRConv2d")
    given = bind_arguments(official_class, arguments, _DEFAULTS, _REFUSED)
    return DRConv2d(
        given["in_channels"],
        given["out_channels"],
        given["kernel_size"],
        bias=False,
        regions=given["region_num"],
        shared_kernel=False,
        **{name: given[name] for name in ("stride", "padding", "dilation")},
    )


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict; the grouped 1x1 convolution becomes one matrix per region."""
    ours = {}
    regions = next((len(tensor) for name, tensor in state.items() if name.startswith("conv_guide.")), None)
    for name, tensor in state.items():
        if name == "conv_kernel.1.weight":
            tensor = tensor.flatten(1)
        elif name.startswith("conv_kernel.3."):
            # a weight is [R * numbers, R, 1, 1], a bias [R * numbers]
            count = tensor.shape[1] if regions is None else regions
            tensor = tensor.flatten(1).unflatten(0, (count, -1)) if tensor.ndim == 4 else tensor.view(count, -1)
        ours[_NAMES.get(name, name)] = tensor
    return ours
