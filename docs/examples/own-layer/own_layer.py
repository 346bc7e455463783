"""A layer of two kernels: one gate per image decides how much of each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.layers import CoefficientBranch, DynamicConv2d, register_layer
from dyvision.ops import mixture_conv2d


class Gate(CoefficientBranch):
    """Shares of two kernels, from the mean of the input."""

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 1, **factory)

    def predict(self, pooled: Tensor) -> Tensor:
        """``[B, C]`` to ``[B, 2]``, which sum to one."""
        weight, bias = (tensor.to(pooled.dtype) for tensor in (self.linear.weight, self.linear.bias))
        share = torch.sigmoid(nn.functional.linear(pooled, weight, bias))
        return torch.cat([share, 1 - share], 1)


@register_layer("two_kernels")
class TwoKernels(DynamicConv2d):
    """A convolution whose kernel is ``share * W1 + (1 - share) * W2`` for each image."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        factory = {name: kwargs.get(name) for name in ("device", "dtype")}
        self.weight = nn.Parameter(torch.empty(2, *self.kernel_shape, **factory))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **factory)) if self.has_bias else None
        self.branch = Gate(self.in_channels, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each kernel as in ``nn.Conv2d``."""
        for kernel in self.weight:
            nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.branch.linear.reset_parameters()

    def coefficients(self, x: Tensor) -> Tensor:
        """Shares ``[B, 2]``."""
        return self.branch(x)

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]``."""
        coefficients = self.coefficients(x) if coefficients is None else coefficients
        x, geometry = self.convolution_arguments(x)
        return mixture_conv2d(x, self.weight, coefficients, self.bias, **geometry)

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from a trained convolution: both kernels are its own, so any share gives its output."""
        self.weight.copy_(weight.expand_as(self.weight))
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)
