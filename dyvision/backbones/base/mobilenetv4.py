"""MobileNetV4 with bounded activations.

Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", ECCV 2024, arXiv 2404.10518; built by timm.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from dyvision.backbones.registry import register_backbone


@register_backbone("mobilenetv4_conv_small_relu6")
def mobilenetv4_conv_small_relu6(**arguments: Any) -> nn.Module:
    """MobileNetV4-Conv-S with MobileNetV2's ReLU6 in place of ReLU.

    A dynamic layer multiplies features by coefficients predicted from them. Where those are not bounded either (DCD's
    channel fusion), each layer can square what reaches it, and a chain of them overflows on one unusual image.
    """
    model: nn.Module = timm.create_model("mobilenetv4_conv_small", act_layer="relu6", **arguments)
    return model
