"""ECA: features scaled per channel by a filter over neighbouring channels, a baseline of dynamic convolution.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020, arXiv
1910.03151, section 3.2; official: ``BangguWu/ECANet``, ``models/eca_module.py``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import check_positive
from dyvision.layers._registry import register_layer
from dyvision.layers.arguments import Conv2dArguments
from dyvision.layers.channel_attention import ChannelAttentionConv2d, ChannelGate, scale_channels
from dyvision.ops.geometry import Size


class ECAGate(ChannelGate):
    """Gates ``sigmoid(conv1d(GAP(x)))``, one filter over neighbouring channels, without bias.

    Args:
        channels: Channels of the input.
        kernel_size: Size of the filter, odd; by default the odd number next above ``|log2(channels) / 2 + 1/2|``.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = int(abs(math.log2(channels) / 2 + 0.5)) | 1 if kernel_size is None else kernel_size
        check_positive("gate_size", size)
        if size % 2 == 0:
            raise ValueError(f"gate_size must be odd, got {size}")
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """PyTorch's own for convolutions."""
        self.conv.reset_parameters()

    def start_constant(self) -> None:
        """Predict 0.5 for every input."""
        nn.init.zeros_(self.conv.weight)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, C]`` to gates ``[B, C]``."""
        weight = self.conv.weight.to(pooled.dtype)
        return torch.sigmoid(F.conv1d(pooled[:, None], weight, padding=self.conv.padding)[:, 0])


class ECA(nn.Module):
    """Features scaled by :class:`ECAGate`, to be put anywhere in a network.

    Args:
        channels: Channels of the input.
        kernel_size: Size of the filter over channels, odd; by default from ``channels``.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        ``[B, C, H, W]`` to the same.

    Example:
        >>> ECA(32)(torch.randn(2, 32, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.branch = ECAGate(channels, kernel_size, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[B, C, H, W]``."""
        return scale_channels(x, self.branch(x))


@register_layer("eca")
class ECAConv2d(ChannelAttentionConv2d):
    """Static convolution followed by efficient channel attention.

    Args:
        gate_size: Size of the filter over channels, odd; by default from ``out_channels``.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, C_out]``.

    Example:
        >>> ECAConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        gate_size: int | None = None,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        self.gate_size = gate_size
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)

    def _make_branch(self, dd: dict[str, Any]) -> ECAGate:
        return ECAGate(self.out_channels, self.gate_size, **dd)
