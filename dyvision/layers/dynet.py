"""DyNet: one coefficient branch per block, kernels mixed separately for each output channel.

Zhang et al., "DyNet: Dynamic Convolution for Accelerating Convolutional Neural Networks", arXiv 2004.10694, Eq. 1 and
2, section 3.2. There is no official code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import DynamicConv2d, check_positive
from dyvision.layers._branch import CoefficientBranch, PreciseLinear, require_branch
from dyvision.layers._initialise import LIKE_CONV2D, reset_children, start_bias_like_conv2d
from dyvision.layers._registry import register_layer
from dyvision.layers.arguments import Conv2dArguments, factory_kwargs
from dyvision.layers.mixture import MixtureConv2d
from dyvision.ops.geometry import Size


class DyNetBranch(CoefficientBranch):
    """Coefficients ``eta = sigmoid(FC(GAP(x)))`` of all layers of a block.

    Args:
        in_channels: Channels of the block's input.
        out_channels: Output channels of each layer; one entry per layer is returned. An int returns the tensor itself.
        num_kernels: Kernels per output channel, g_t.
        hidden_reduction: None for one linear layer; ``4`` for two, ``in_channels // 4`` wide with a ReLU between (the
            paper's ResNets).
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    squashes = True
    #: order of what the last layer predicts for a layer: kernels before output channels, or output channels first
    by_kernel: bool = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int | Sequence[int],
        num_kernels: int,
        hidden_reduction: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_kernels = num_kernels
        self.single = isinstance(out_channels, int)
        self.out_channels = (out_channels,) if isinstance(out_channels, int) else tuple(out_channels)
        hidden = in_channels
        self.reduce: PreciseLinear | None = None
        if hidden_reduction is not None:
            check_positive("hidden_reduction", hidden_reduction)
            hidden = max(in_channels // hidden_reduction, 1)
            self.reduce = PreciseLinear(in_channels, hidden, device=device, dtype=dtype)
        self.fc = PreciseLinear(hidden, num_kernels * sum(self.out_channels), device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """PyTorch's own for linear layers."""
        reset_children(self)

    def start_constant(self) -> None:
        """Predict 0.5 for every input."""
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def predict(self, pooled: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map ``[B, C]`` to ``[B, g_t, C_out]`` per layer."""
        hidden = pooled if self.reduce is None else torch.relu(self.reduce(pooled))
        return self.finish(torch.sigmoid(self.fc(hidden)))

    def perceptron(self) -> tuple[PreciseLinear | None, PreciseLinear]:
        """See the base class."""
        return self.reduce, self.fc

    def finish(self, predicted: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Divide among the layers."""
        count = self.num_kernels
        parts = predicted.split([count * channels for channels in self.out_channels], 1)
        if self.by_kernel:
            sizes = zip(parts, self.out_channels, strict=True)
            shaped = tuple([part.view(-1, count, channels) for part, channels in sizes])
        else:
            # number t * g_t + i belongs to kernel i of output channel t
            shaped = tuple([part.unflatten(1, (-1, count)).transpose(1, 2) for part in parts])
        return shaped[0] if self.single else shaped

    def prepare_inference(self) -> None:
        """Predict all numbers of a kernel one after the other, not those of an output channel."""
        if self.by_kernel:
            return
        for parameter in (self.fc.weight, self.fc.bias):
            parts = parameter.split([self.num_kernels * channels for channels in self.out_channels])
            ordered = [part.unflatten(0, (-1, self.num_kernels)).transpose(0, 1).flatten(0, 1) for part in parts]
            parameter.copy_(torch.cat(ordered))
        self.by_kernel = True


@register_layer("dynet")
class DyNetConv2d(MixtureConv2d):
    """Convolution with ``w[b, t] = sum_i eta[b, i, t] w[i, t]`` for every output channel t; the bias is static.

    Args:
        num_kernels: Kernels per output channel, g_t; the paper uses 6.
        bank: ``"full"`` for K whole kernels, ``"tucker"`` for a factorised bank, ``U_out G_k U_in``: two 1x1
            convolutions around cores G_k, of which those of a kernel are mixed. Depthwise layers keep whole kernels.
        rank: Of a factorised bank: a share of the channels, a float in (0, 1], by default 0.5, or the rank itself, an
            int.
        hidden_reduction: Of the layer's own branch; see :class:`DyNetBranch`.
        branch: Own branch on the layer's input; False if the block's coefficients are handed to ``forward``.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, g_t, C_out]``.

    Example:
        >>> DyNetConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    shares_coefficients = True
    mixes_per_channel = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        num_kernels: int = 6,
        bank: str = "full",
        rank: float | None = None,
        hidden_reduction: int | None = None,
        branch: bool = True,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        dd = factory_kwargs(args, kwargs)
        self.make_bank(num_kernels, bank, rank, **dd)
        self.bias = nn.Parameter(torch.empty(self.out_channels, **dd)) if self.has_bias else None
        self.branch = (
            DyNetBranch(self.in_channels, self.out_channels, num_kernels, hidden_reduction, **dd) if branch else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each kernel and the bias like ``nn.Conv2d``; the paper does not say."""
        if self.branch is not None:
            self.branch.reset_parameters()
        self.reset_bank(LIKE_CONV2D)
        start_bias_like_conv2d(self.bias, math.prod(self.kernel_shape[1:]))

    @classmethod
    def make_shared_branch(
        cls, in_channels: int, layers: Sequence[DynamicConv2d], hidden_reduction: int | None = None
    ) -> DyNetBranch:
        """Build one branch for all layers of a block; see the base class."""
        weight = layers[0].weight
        out_channels = [layer.out_channels for layer in layers]
        return DyNetBranch(
            in_channels, out_channels, weight.shape[0], hidden_reduction, device=weight.device, dtype=weight.dtype
        )

    def coefficients(self, x: Tensor) -> Tensor:
        """Return ``[B, g_t, C_out]`` in (0, 1)."""
        return require_branch(self)(x)

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from ``2 W / g_t`` plus noise that sums to zero, under coefficients of exactly 0.5."""
        self.start_bank(weight * (2 / self.num_kernels))
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)
        if self.branch is not None:
            self.branch.start_constant()
