"""Channel attention behind a static convolution: what the baselines of dynamic convolution, SE and ECA, share.

Both papers put the module behind the last normalisation of a block: that is :class:`dyvision.layers.SqueezeExcite` and
:class:`dyvision.layers.ECA`. The layers put it behind a convolution, in front of the normalisation, so that it can be
compared with the dynamic convolutions in the same places.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import DynamicConv2d
from dyvision.layers._branch import CoefficientBranch
from dyvision.layers._initialise import start_like_conv2d
from dyvision.layers._plain import plain_conv2d
from dyvision.layers._weight import StaticKernel
from dyvision.layers.arguments import Conv2dArguments, factory_kwargs
from dyvision.ops.geometry import Size


class ChannelGate(CoefficientBranch):
    """Base of the gates; ``predict`` maps ``[B, C]`` to ``[B, C]`` in (0, 1)."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Initialise as the gates' own layers do."""


def scale_channels(x: Tensor, gates: Tensor) -> Tensor:
    """Multiply ``x [B, C, H, W]`` by ``gates [B, C]`` in the type of x."""
    return x * gates.to(x.dtype)[:, :, None, None]


class ChannelAttentionConv2d(DynamicConv2d, abstract=True):
    """Base of a static convolution whose output is scaled by gates predicted from that output.

    A subclass makes the gates in ``_make_branch``.
    """

    branch: ChannelGate

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        dd = factory_kwargs(args, kwargs)
        self.weight = nn.Parameter(torch.empty(self.kernel_shape, **dd))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **dd)) if self.has_bias else None
        self.branch = self._make_branch(dd)
        self.reset_parameters()

    @abstractmethod
    def _make_branch(self, dd: dict[str, Any]) -> ChannelGate: ...

    def reset_parameters(self) -> None:
        """Initialise the kernel and the bias like ``nn.Conv2d``, the gates like their own layers."""
        start_like_conv2d(self.weight, self.bias)
        self.branch.reset_parameters()

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the gates ``[B, C_out]`` in (0, 1); this computes the convolution."""
        return self.branch(self._convolve(x))

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]`` and scale."""
        output = self._convolve(x)
        return scale_channels(output, self.branch(output) if coefficients is None else coefficients)

    def static_kernel(self, coefficients: Tensor) -> StaticKernel:
        """See the base class."""
        gates = coefficients[0]
        return StaticKernel(self.weight * gates[:, None, None, None], None if self.bias is None else self.bias * gates)

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from ``2 W`` and twice the bias, under gates of exactly 0.5."""
        self.weight.copy_(2 * weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(2 * bias)
        self.branch.start_constant()

    def _convolve(self, x: Tensor) -> Tensor:
        x, geometry = self.convolution_arguments(x)
        return plain_conv2d(x, self.weight, self.bias, **geometry)
