"""The arguments of the official networks' constructors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyvision.checkpoints.interface import check_arguments

#: structure beside the constructors' own: what narrowed networks say of themselves, and what names and shapes tell
_OURS = ("widths", "inplanes", "in_chans")
_RESNET = ("block", "layers", "num_classes")
_MOBILENETV2 = ("num_classes", "width_mult", "inverted_residual_setting", "round_nearest", "block", "norm_layer")
_MANAGER = (
    *("reduction", "cell_num_ratio", "cell_inplane_ratio", "cell_outplane_ratio", "sharing_range"),
    "nonlocal_basis_ratio",
)
_NETWORKS: dict[tuple[str, str], tuple[str, ...]] = {
    ("condconv", "mobilenet"): ("num_classes", "width_mult", "num_experts"),
    ("dcd", "mobilenet"): ("num_classes", "width_mult", "dropout", "fc_squeeze"),
    ("dcd", "resnet"): (*_RESNET, "dropout", "pretrained"),
    ("dgc", "resnet"): (
        *(*_RESNET, "args", "heads", "squeeze_rate", "gate_factor", "zero_init_residual", "groups", "width_per_group"),
        *("replace_stride_with_dilation", "norm_layer"),
    ),
    ("dyconv", "resnet"): (
        *(*_RESNET, "zero_init_residual", "groups", "width_per_group", "replace_stride_with_dilation", "norm_layer"),
        *("pretrained", "progress"),
    ),
    ("kernelwarehouse", "convnext"): (
        *("num_classes", "depths", "dims", "drop_path_rate", "layer_scale_init_value", "head_init_scale", *_MANAGER),
        *("pretrained", "in_22k"),
    ),
    ("kernelwarehouse", "mobilenet"): (*_MOBILENETV2, "dropout", *_MANAGER),
    ("kernelwarehouse", "resnet"): (*_RESNET, "dropout", "drop_path_rate", *_MANAGER),
    ("odconv", "mobilenet"): (*_MOBILENETV2, "dropout", "reduction", "kernel_num"),
    ("odconv", "resnet"): (*_RESNET, "dropout", "reduction", "kernel_num"),
}


def check_network_arguments(method: str, family: str, official_class: str, arguments: Mapping[str, Any]) -> None:
    """Check the arguments of an official network.

    Args:
        method: Name of the method.
        family: ``"resnet"``, ``"mobilenet"`` or ``"convnext"``.
        official_class: Name of the class, for messages.
        arguments: What was given; under ``args`` what the command line of an official script holds.

    Raises:
        ValueError: If one is none of the constructor's.
    """
    if (method, family) in _NETWORKS:
        given = {**(arguments.get("args") or {}), **arguments}
        check_arguments(official_class, given, (*_OURS, *_NETWORKS[method, family]))
