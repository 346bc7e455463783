"""Squeeze-and-excitation and ECA: features scaled per channel, the baselines of dynamic convolution.

SE: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, Eq. 2 to 4; official:
``hujie-frank/SENet``. ECA: Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
CVPR 2020, arXiv 1910.03151, section 3.2; official: ``BangguWu/ECANet``, ``models/eca_module.py``.

Both papers put the module behind the last normalisation of a block: that is :class:`SqueezeExcite` and :class:`ECA`.
The layers here put it behind a convolution, in front of the normalisation, so that it can be compared with the dynamic
convolutions in the same places.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.layers._base import DynamicConv2d, check_positive
from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._plain import plain_conv2d
from dyvision.layers._registry import register_layer

#: lower bound of SE's hidden layer, which the paper does not need: with one or two units all may be dead
MIN_WIDTH = 8


class ChannelGate(CoefficientBranch):
    """Base of the gates; ``predict`` maps ``[B, C]`` to ``[B, C]`` in (0, 1)."""


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
        return torch.sigmoid(F.conv1d(pooled[:, None], weight, padding=weight.shape[2] // 2)[:, 0])


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


def scale_channels(x: Tensor, gates: Tensor) -> Tensor:
    """Multiply ``x [B, C, H, W]`` by ``gates [B, C]`` in the type of x."""
    return x * gates.to(x.dtype)[:, :, None, None]


class ChannelAttentionConv2d(DynamicConv2d, abstract=True):
    """Base of a static convolution whose output is scaled by gates predicted from that output.

    A subclass makes the gates in ``_make_branch``.
    """

    branch: SEGate | ECAGate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dd: dict[str, Any] = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        self.weight = nn.Parameter(torch.empty(self.kernel_shape, **dd))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **dd)) if self.has_bias else None
        self.branch = self._make_branch(dd)
        self.reset_parameters()

    @abstractmethod
    def _make_branch(self, dd: dict[str, Any]) -> SEGate | ECAGate: ...

    def reset_parameters(self) -> None:
        """Initialise the kernel and the bias like ``nn.Conv2d``, the gates like their own layers."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        self.branch.reset_parameters()

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the gates ``[B, C_out]`` in (0, 1); this computes the convolution."""
        return self.branch(self._convolve(x))

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]`` and scale."""
        output = self._convolve(x)
        return scale_channels(output, self.branch(output) if coefficients is None else coefficients)

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from ``2 W`` and twice the bias, under gates of exactly 0.5."""
        self.weight.copy_(2 * weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(2 * bias)
        self.branch.start_constant()

    def _convolve(self, x: Tensor) -> Tensor:
        x, geometry = self.convolution_arguments(x)
        return plain_conv2d(x, self.weight, self.bias, **geometry)


@register_layer("se")
class SEConv2d(ChannelAttentionConv2d):
    """Static convolution followed by squeeze-and-excitation.

    Args:
        *args: As for ``nn.Conv2d``.
        reduction: Of the gates' hidden layer over ``out_channels``; it has at least 8 units.
        **kwargs: As for ``nn.Conv2d``.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, C_out]``.

    Example:
        >>> SEConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(self, *args: Any, reduction: int = 16, **kwargs: Any) -> None:
        self.reduction = reduction
        super().__init__(*args, **kwargs)

    def _make_branch(self, dd: dict[str, Any]) -> SEGate:
        return SEGate(self.out_channels, self.reduction, **dd)


@register_layer("eca")
class ECAConv2d(ChannelAttentionConv2d):
    """Static convolution followed by efficient channel attention.

    Args:
        *args: As for ``nn.Conv2d``.
        gate_size: Size of the filter over channels, odd; by default from ``out_channels``.
        **kwargs: As for ``nn.Conv2d``.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, C_out]``.

    Example:
        >>> ECAConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(self, *args: Any, gate_size: int | None = None, **kwargs: Any) -> None:
        self.gate_size = gate_size
        super().__init__(*args, **kwargs)

    def _make_branch(self, dd: dict[str, Any]) -> ECAGate:
        return ECAGate(self.out_channels, self.gate_size, **dd)
