"""CondConv: kernels mixed by sigmoid routing weights, one routing per block.

Yang et al., "CondConv: Conditionally Parameterized Convolutions for Efficient Inference", NeurIPS 2019, arXiv
1904.04971, Eq. 1. Official: ``tensorflow/tpu/models/official/efficientnet/condconv``; initialisation of the routing as
in ``d-li14/condconv.pytorch`` (weights N(0, 0.01), bias 0), of each kernel as in timm's ``cond_conv2d.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import DynamicConv2d
from dyvision.layers._branch import LinearBranch, require_branch
from dyvision.layers._initialise import LIKE_CONV2D, Initializer, start_bias_like_conv2d
from dyvision.layers._registry import register_layer
from dyvision.layers.arguments import Conv2dArguments, factory_kwargs
from dyvision.layers.mixture import MixtureConv2d
from dyvision.ops.geometry import Size
from dyvision.ops.native import Gates

#: start of the routing's weights
ROUTING: Initializer = partial(nn.init.normal_, std=0.01)


class CondConvRouting(LinearBranch):
    """Routing weights ``r = sigmoid(GAP(x) R^T + b)``, one per kernel; where they start constant, all 0.5."""

    initializer = staticmethod(ROUTING)

    def activate(self, predicted: Tensor) -> Tensor:
        """Sigmoid."""
        return torch.sigmoid(predicted)


@register_layer("condconv")
class CondConv2d(MixtureConv2d):
    """Convolution with ``W_b = sum_k r[b, k] W_k`` and ``bias_b = sum_k r[b, k] c_k``.

    Args:
        num_kernels: Kernels K; the paper uses 8.
        bank: ``"full"`` for K whole kernels, ``"tucker"`` for a factorised bank, ``U_out G_k U_in``: two 1x1
            convolutions around cores G_k, of which the K are mixed. Depthwise layers keep whole kernels.
        rank: Of a factorised bank: a share of the channels, a float in (0, 1], by default 0.5, or the rank itself, an
            int.
        branch: Own routing from the layer's input; False if the block's routing is handed to ``forward``.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, K]``.

    Example:
        >>> CondConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    shares_coefficients = True
    branch_type = CondConvRouting

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        num_kernels: int = 8,
        bank: str = "full",
        rank: float | None = None,
        branch: bool = True,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        dd = factory_kwargs(args, kwargs)
        self.make_bank(num_kernels, bank, rank, **dd)
        self.bias = nn.Parameter(torch.empty(num_kernels, self.out_channels, **dd)) if self.has_bias else None
        self.branch = CondConvRouting(self.in_channels, num_kernels, **dd) if branch else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each kernel like ``nn.Conv2d``."""
        if self.branch is not None:
            self.branch.reset_parameters()
        self.reset_bank(LIKE_CONV2D)
        start_bias_like_conv2d(self.bias, math.prod(self.kernel_shape[1:]))

    @classmethod
    def make_shared_branch(cls, in_channels: int, layers: Sequence[DynamicConv2d]) -> CondConvRouting:
        """Build one routing for all layers of a block; see the base class."""
        weight = layers[0].weight
        return CondConvRouting(in_channels, weight.shape[0], len(layers), weight.device, weight.dtype)

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the routing weights ``[B, K]`` in (0, 1)."""
        return require_branch(self)(x)

    def gates(self) -> Gates:
        """See the base class."""
        return Gates(kernel=self.num_kernels, softmax=False)

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from ``W_k = 2 W / K`` plus noise that sums to zero, under routing weights of exactly 0.5."""
        self.start_bank(weight * (2 / self.num_kernels))
        if self.bias is not None and bias is not None:
            self.bias.copy_((bias * (2 / self.num_kernels)).expand_as(self.bias))
        if self.branch is not None:
            self.branch.start_constant()
