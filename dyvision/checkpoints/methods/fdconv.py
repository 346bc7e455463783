"""Official FDConv layers (``Linwei-Chen/FDConv``, ``FDConv_detection/mmdet_custom/FDConv.py``) as ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.checkpoints.interface import check_arguments, check_class
from dyvision.layers.fdconv import FDConv2d

_NAMES = {
    "KSM_Global.relu.scale": "branch.star_scale",
    "KSM_Global.relu.bias": "branch.star_shift",
    "KSM_Local.norm.weight": "branch.norm.weight",
    "KSM_Local.norm.bias": "branch.norm.bias",
    "KSM_Local.conv.weight": "branch.local_conv.weight",
}
#: the official constructor's names for ours, where the meaning is the same
_ARGUMENTS = {
    "reduction": "reduction",
    "use_fdconv_if_c_gt": "min_channels",
    "use_fdconv_if_k_in": "kernel_sizes",
    "use_fbm_if_k_in": "band_kernel_sizes",
    "use_fbm_for_stride": "bands_if_strided",
    "att_multi": "gate_scale",
    "param_ratio": "param_ratio",
    "param_reduction": "param_reduction",
    "ksm_only_kernel_att": "kernel_gates_only",
    "use_ksm_local": "local_gates",
    "ksm_local_act": "local_activation",
    "ksm_global_act": "activation",
    "convert_param": "spectral",
}
_BAND_ARGUMENTS = {
    "k_list": "divisors",
    "lowfreq_att": "low",
    "act": "activation",
    "spatial_group": "groups",
    "spatial_kernel": "kernel_size",
    "max_size": "mask_size",
}
#: what the official code takes and does not use
_UNUSED = ("use_fdconv_if_stride_in", "att_grid", "linear_mode", "device", "dtype")
_CONVOLUTION = ("stride", "padding", "dilation", "groups", "bias", "padding_mode")
_NAMES_OF_ALL = {
    *("in_channels", "out_channels", "kernel_size", "kernel_num", "kernel_temp", "temp", "fbm_cfg"),
    *("spatial_freq_decompose", *_ARGUMENTS, *_UNUSED, *_CONVOLUTION),
}
_BANDS = "FBM.freq_weight_conv_list."


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for an official one.

    Args:
        official_class: ``"FDConv"``.
        arguments: Of its constructor.
        state: Not used.

    Raises:
        ValueError: If the class is not one of the official ones, or the official code cannot compute what the arguments
            say: ``spatial_freq_decompose`` (its gates have twice the channels of what they scale), or
            ``param_reduction`` below one together with ``convert_param=False``.
    """
    check_class(official_class, "FDConv")
    check_arguments(official_class, arguments, _NAMES_OF_ALL)
    if arguments.get("spatial_freq_decompose") and not arguments.get("ksm_only_kernel_att"):
        raise ValueError(
            "spatial_freq_decompose must be False: with it the official layer has gates for twice its channels and "
            "cannot run"
        )
    out_channels, count = arguments["out_channels"], arguments.get("kernel_num", 4)
    temperature = arguments.get("kernel_temp", 1.0)
    if count is None:
        count = out_channels // 2
        temperature = math.sqrt(count * arguments.get("param_ratio", 1))
    common = arguments.get("temp")
    options = {ours: arguments[official] for official, ours in _ARGUMENTS.items() if official in arguments}
    layer = FDConv2d(
        arguments["in_channels"],
        out_channels,
        arguments["kernel_size"],
        num_kernels=count,
        temperature=temperature if common is None else common,
        kernel_temperature=temperature,
        bands=_bands(arguments.get("fbm_cfg") or {}),
        **{name: arguments[name] for name in _CONVOLUTION if name in arguments},
        **options,
    )
    if layer.is_dynamic:
        # the official dynamic path pads by zeros whatever the mode
        layer.padding_mode = "zeros"
    return layer


def _bands(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of our bands for ``fbm_cfg``; ``fs_feat`` and unknown entries have no effect in the official code."""
    if configuration.get("spatial", "conv") != "conv":
        raise ValueError(f"fbm_cfg: spatial must be 'conv', got {configuration['spatial']!r}")
    # the class has one band where the layer's default has three
    defaults = {"k_list": [2]} if configuration else {}
    given = {**defaults, **configuration}
    return {ours: given[official] for official, ours in _BAND_ARGUMENTS.items() if official in given}


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
        elif name == "weight" and tensor.ndim == 2:  # linear_mode
            ours[name] = tensor[:, :, None, None]
        elif not name.startswith(_BANDS):
            ours[name] = tensor
    for kind in ("weight", "bias"):
        bands = sorted((name for name in state if name.startswith(_BANDS) and name.endswith(kind)), key=_number)
        if bands:
            ours[f"bands.{kind}"] = torch.cat([state[name] for name in bands])
    return ours


def apply_auxiliary(layer: nn.Module, auxiliary: Mapping[str, Tensor]) -> None:
    """Set the order of the frequencies from ``indices [1, 2, n, frequencies / n]`` (row, column)."""
    if "indices" in auxiliary and isinstance(layer, FDConv2d) and layer.is_dynamic:
        rows, columns = auxiliary["indices"][0].flatten(1)
        layer.order[: layer.kept].copy_(rows * layer.plane[1] + columns)


def _number(name: str) -> int:
    return int(name.removeprefix(_BANDS).partition(".")[0])
