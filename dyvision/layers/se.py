"""Squeeze-and-excitation: features scaled per channel, a baseline of dynamic convolution.

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, Eq. 2 to 4; official:
``hujie-frank/SENet``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import check_positive
from dyvision.layers._branch import PreciseLinear
from dyvision.layers._registry import register_layer
from dyvision.layers.arguments import Conv2dArguments
from dyvision.layers.channel_attention import ChannelAttentionConv2d, ChannelGate, scale_channels
from dyvision.ops.geometry import Size

#: lower bound of the hidden layer, which the paper does not need: with one or two units all may be dead
MIN_WIDTH = 8


class SEGate(ChannelGate):
    """Gates ``sigmoid(W2 ReLU(W1 GAP(x) + b1) + b2)``.

    Args:
        channels: Channels of the input.
        reduction: Of the hidden layer, which has at least 8 units.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive("reduction", reduction)
        hidden = max(channels // reduction, MIN_WIDTH)
        self.fc1 = PreciseLinear(channels, hidden, device=device, dtype=dtype)
        self.fc2 = PreciseLinear(hidden, channels, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """PyTorch's own for linear layers."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()

    def start_constant(self) -> None:
        """Predict 0.5 for every input."""
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, C]`` to gates ``[B, C]``."""
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(pooled))))


class SqueezeExcite(nn.Module):
    """Features scaled by :class:`SEGate`, to be put anywhere in a network.

    Args:
        channels: Channels of the input.
        reduction: Of the hidden layer, which has at least 8 units.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        ``[B, C, H, W]`` to the same.

    Example:
        >>> SqueezeExcite(32)(torch.randn(2, 32, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.branch = SEGate(channels, reduction, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[B, C, H, W]``."""
        return scale_channels(x, self.branch(x))


@register_layer("se")
class SEConv2d(ChannelAttentionConv2d):
    """Static convolution followed by squeeze-and-excitation.

    Args:
        reduction: Of the gates' hidden layer over ``out_channels``; it has at least 8 units.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, C_out]``.

    Example:
        >>> SEConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        reduction: int = 16,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        self.reduction = reduction
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)

    def _make_branch(self, dd: dict[str, Any]) -> SEGate:
        return SEGate(self.out_channels, self.reduction, **dd)
