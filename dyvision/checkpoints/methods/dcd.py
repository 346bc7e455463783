"""Official DCD layers (``liyunsheng13/dcd``, ``models/imagenet/mobilenetv2_dcd.py`` and ``resnet_dcd.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.checkpoints.interface import REQUIRED, bind_arguments, check_class, widen
from dyvision.layers.classifier import dcd_classifier
from dyvision.layers.dcd import DCDConv2d
from dyvision.ops.geometry import pair

#: the official constructors; the code's default squeeze is 8, the released weights have 16
_DEFAULTS: dict[str, dict[str, Any]] = {
    "DYModule": {"inp": REQUIRED, "oup": REQUIRED, "fc_squeeze": 8},
    "conv_basic_dy": {"inplanes": REQUIRED, "planes": REQUIRED, "stride": REQUIRED},
    "conv_dy": {name: REQUIRED for name in ("inplanes", "planes", "kernel_size", "stride", "padding")},
    "DYCls": {"inp": REQUIRED, "oup": REQUIRED},
}
_NAMES = {
    "conv.weight": "weight",
    "q.weight": "conv_q.weight",
    "p.weight": "conv_p.weight",
    "fc.0.weight": "branch.squeeze.weight",
    "fc.1.fc.0.weight": "branch.gate.weight",
    "fc_phi.weight": "branch.fc_phi.weight",
    "fc_scale.weight": "branch.fc_scale.weight",
    "cls.weight": "weight",
    "cls.bias": "bias",
    "cls_q.weight": "conv_q.weight",
    "cls_p.weight": "conv_p.weight",
}


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our layer for an official one.

    Args:
        official_class: ``"DYModule"``, ``"conv_basic_dy"``, ``"conv_dy"`` or ``"DYCls"``.
        arguments: Of its constructor.
        state: Nothing is set after construction.

    Raises:
        ValueError: If the class is not one of the official ones, or it has no such argument; also if the padding of a
            ``conv_dy`` is another than ``(kernel_size - 1) // 2``: the official residual then reads other positions
            than the kernel's centre, where its map has the same size at all.
    """
    check_class(official_class, *_DEFAULTS)
    given = bind_arguments(official_class, arguments, _DEFAULTS[official_class])
    if official_class == "DYModule":
        return DCDConv2d(given["inp"], given["oup"], 1, bias=False, form="pointwise", squeeze=given["fc_squeeze"])
    if official_class == "DYCls":
        return dcd_classifier(given["inp"], given["oup"])
    basic = official_class == "conv_basic_dy"
    kernel_size, padding = (3, 1) if basic else (given["kernel_size"], given["padding"])
    size, before = pair("kernel_size", kernel_size, 1), pair("padding", padding, 0)
    if before != ((size[0] - 1) // 2, (size[1] - 1) // 2):
        raise ValueError(
            f"conv_dy: padding must be (kernel_size - 1) // 2, got {padding!r} for kernel_size={kernel_size!r}: "
            "otherwise the official residual does not act at the kernel's centre"
        )
    return DCDConv2d(
        given["inplanes"],
        given["planes"],
        kernel_size,
        stride=given["stride"],
        padding=padding,
        bias=False,
        form="basic" if basic else "bottleneck",
        squeeze=16,
    )


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the state dict of one layer, or of the classifier, which has its convolution in ``conv``."""
    prefix = "conv." if any(name.startswith("cls") for name in state) else ""
    return {f"{prefix}{name}": tensor for name, tensor in conv_state(state).items()}


def conv_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate any part of a layer's or classifier's state dict to the names of :class:`DCDConv2d`."""
    return {
        _NAMES.get(name, name): tensor[:, :, None, None]
        if name.startswith("cls") and tensor.ndim == 2
        else widen(tensor)
        for name, tensor in state.items()
    }
