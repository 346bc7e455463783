"""Official DCD layers (``liyunsheng13/dcd``, ``models/imagenet/mobilenetv2_dcd.py`` and ``resnet_dcd.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dyvision.layers.classifier import dcd_classifier
from dyvision.layers.dcd import DCDConv2d

CLASSES = ("DYModule", "conv_basic_dy", "conv_dy", "DYCls")
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
        ValueError: If the class is not one of the official ones.
    """
    if official_class == "DYModule":
        # the code's default is 8, the released weights have 16
        squeeze = arguments.get("fc_squeeze", 8)
        return DCDConv2d(arguments["inp"], arguments["oup"], 1, bias=False, form="pointwise", squeeze=squeeze)
    if official_class == "DYCls":
        return dcd_classifier(arguments["inp"], arguments["oup"])
    if official_class not in CLASSES:
        raise ValueError(f"official_class must be one of {', '.join(CLASSES)}, got {official_class!r}")
    basic = official_class == "conv_basic_dy"
    return DCDConv2d(
        arguments["inplanes"],
        arguments["planes"],
        3 if basic else arguments["kernel_size"],
        stride=arguments["stride"],
        padding=1 if basic else arguments["padding"],
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
        else _widen(tensor)
        for name, tensor in state.items()
    }


def _widen(tensor: Tensor) -> Tensor:
    """Zeros where the official branch has no width at all (``conv_dy`` below 16 channels): ours has one at least."""
    return tensor if tensor.numel() else tensor.new_zeros([max(size, 1) for size in tensor.shape])
