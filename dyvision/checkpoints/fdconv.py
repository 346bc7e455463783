"""Official FDConv layers (``Linwei-Chen/FDConv``, ``FDConv_detection/mmdet_custom/FDConv.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.layers.fdconv import FDConv2d

_NAMES = {
    "KSM_Global.relu.scale": "branch.star_scale",
    "KSM_Global.relu.bias": "branch.star_shift",
    "KSM_Local.norm.weight": "branch.norm.weight",
    "KSM_Local.norm.bias": "branch.norm.bias",
    "KSM_Local.conv.weight": "branch.local_conv.weight",
}
#: what this package implements of the official options; others change the mathematics
_FIXED: dict[str, Any] = {
    "param_ratio": 1,
    "param_reduction": 1.0,
    "att_multi": 2.0,
    "use_fdconv_if_c_gt": 16,
    "use_fdconv_if_k_in": [1, 3],
    "use_fbm_if_k_in": [3],
    "ksm_only_kernel_att": False,
    "use_ksm_local": True,
    "ksm_local_act": "sigmoid",
    "ksm_global_act": "sigmoid",
    "spatial_freq_decompose": False,
}
_BANDS = "FBM.freq_weight_conv_list."


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for an official one.

    Args:
        official_class: ``"FDConv"``.
        arguments: Of its constructor.
        state: Not used.

    Raises:
        ValueError: If the class is not one of the official ones, or an option has a value that is not supported.
    """
    if official_class != "FDConv":
        raise ValueError(f"official_class must be FDConv, got {official_class!r}")
    for name, value in _FIXED.items():
        given = arguments.get(name, value)
        if (list(given) if isinstance(given, tuple) else given) != value:
            raise ValueError(f"{name} must be {value!r}, got {given!r}")
    names = ("stride", "padding", "dilation", "groups", "bias", "padding_mode", "reduction")
    temperature = arguments.get("kernel_temp", 1.0)
    if arguments.get("temp", temperature) not in (None, temperature):
        raise ValueError(f"temp must be kernel_temp={temperature!r}, got {arguments['temp']!r}")
    return FDConv2d(
        arguments["in_channels"],
        arguments["out_channels"],
        arguments["kernel_size"],
        num_kernels=arguments.get("kernel_num", 4),
        temperature=temperature,
        **{name: arguments[name] for name in names if name in arguments},
    )


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: 1x1 convolutions are linear layers, the convolutions of the bands are one."""
    ours = {}
    for name, tensor in state.items():
        if name == "dft_weight":
            ours[name] = tensor.squeeze(0)
        elif name in _NAMES:
            ours[_NAMES[name]] = tensor
        elif name.startswith("KSM_Global."):
            ours[name.replace("KSM_Global", "branch")] = tensor.flatten(1) if tensor.ndim == 4 else tensor
        elif not name.startswith(_BANDS):
            ours[name] = tensor
    for kind in ("weight", "bias"):
        bands = sorted(name for name in state if name.startswith(_BANDS) and name.endswith(kind))
        if bands:
            ours[f"bands.{kind}"] = torch.cat([state[name] for name in bands])
    return ours


def apply_auxiliary(layer: nn.Module, auxiliary: Mapping[str, Tensor]) -> None:
    """Set the order of the frequencies from ``indices [1, 2, n, frequencies / n]`` (row, column)."""
    if "indices" in auxiliary and isinstance(layer, FDConv2d) and layer.is_dynamic:
        rows, columns = auxiliary["indices"][0].flatten(1)
        layer.order.copy_(rows * layer.dft_weight.shape[1] + columns)
