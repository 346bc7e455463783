"""SK: branches with different receptive fields, chosen between per channel.

Li et al., "Selective Kernel Networks", CVPR 2019, arXiv 1903.06586, Eq. 1 to 6. Official: ``implus/SKNet``. The
branches share one size and differ in their dilation, as in the paper's efficient form. The paper's branches are
convolution, BatchNorm and ReLU (``activation=True``); by default they are convolutions alone, so that the layer
replaces a convolution in front of the network's own BatchNorm.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import _PADDING_MODES, DynamicConv2d, check_positive
from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._initialise import reset_children, start_like_conv2d
from dyvision.layers._registry import register_layer
from dyvision.layers._weight import StaticKernel
from dyvision.layers.arguments import Conv2dArguments, factory_kwargs
from dyvision.layers.norm import GuardedBatchNorm1d, GuardedBatchNorm2d, apply_norm
from dyvision.ops.geometry import Size
from dyvision.ops.modes import is_exporting


class KernelSelection(CoefficientBranch):
    """Attention over the branches, per channel: ``softmax_m(A_m ReLU(BN(W GAP(x))))``.

    Args:
        channels: Channels of the sum of the branches.
        branches: Number of branches M.
        hidden: Width of the hidden layer.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        channels: int,
        branches: int,
        hidden: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.branches = branches
        self.fc = PreciseLinear(channels, hidden, bias=False, **dd)
        self.bn = GuardedBatchNorm1d(hidden, **dd)
        self.select = PreciseLinear(hidden, branches * channels, bias=False, **dd)

    def reset_parameters(self) -> None:
        """PyTorch's own."""
        reset_children(self)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, C]`` to ``[B, M, C]``; sums over M are one."""
        hidden = torch.relu(apply_norm(self.bn, self.fc(pooled)))
        return torch.softmax(self.select(hidden).unflatten(1, (self.branches, -1)), 1)


@register_layer("sk")
class SKConv2d(DynamicConv2d):
    """Convolution with ``y = sum_m a_m U_m``; branch m has m times the dilation and is padded to the same size.

    For 1x1 kernels, which have no dilation, the branches differ only in their weights.

    Args:
        branches: Branches M; the paper uses 2.
        reduction: Width of the attention's hidden layer over ``out_channels``.
        min_width: Lower bound of that width.
        activation: Put BatchNorm and ReLU behind each branch, as the paper does.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, M, C_out]``.

    Example:
        >>> SKConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        branches: int = 2,
        reduction: int = 16,
        min_width: int = 32,
        activation: bool = False,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        for name, value in (("branches", branches), ("reduction", reduction), ("min_width", min_width)):
            check_positive(name, value)
        dd = factory_kwargs(args, kwargs)
        self.branches = branches
        self.weight = nn.Parameter(torch.empty(branches, *self.kernel_shape, **dd))
        self.bias = nn.Parameter(torch.empty(branches, self.out_channels, **dd)) if self.has_bias else None
        self.norms = (
            nn.ModuleList(GuardedBatchNorm2d(self.out_channels, **dd) for _ in range(branches)) if activation else None
        )
        hidden = max(self.out_channels // reduction, min_width)
        self.branch = KernelSelection(self.out_channels, branches, hidden, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each branch like ``nn.Conv2d``."""
        start_like_conv2d(self.weight, self.bias)
        self.branch.reset_parameters()

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the attention over the branches ``[B, M, C_out]``; this computes the branches."""
        return self.branch(self._features(x).sum(1))

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]``."""
        features = self._features(x)
        attention = self.branch(features.sum(1)) if coefficients is None else coefficients
        return (features * attention.to(features.dtype)[..., None, None]).sum(1)

    def static_kernel(self, coefficients: Tensor) -> StaticKernel:
        """See the base class: one kernel with the taps of all branches, as large as that of the last one."""
        attention = coefficients[0].to(self.weight.dtype)
        axes = [self._taps(axis) for axis in (0, 1)]
        lengths = [max(max(places) for places in taps) + 1 for taps, _, _ in axes]
        weight = self.weight.new_zeros(*self.weight.shape[1:3], *lengths)
        for number, kernel in enumerate(self.weight * attention[:, :, None, None, None]):
            rows, columns = (torch.tensor(taps[number], device=weight.device) for taps, _, _ in axes)
            weight[:, :, rows[:, None], columns] += kernel
        bias = None if self.bias is None else (self.bias * attention).sum(0)
        padding = "same" if self.padding == "same" else (axes[0][1], axes[1][1])
        return StaticKernel(weight, bias, padding, (axes[0][2], axes[1][2]))

    def _taps(self, axis: int) -> tuple[list[list[int]], int, int]:
        """Places of each branch's taps on one axis of the common kernel, its padding, and its dilation."""
        size, dilation = self.kernel_size[axis], self.dilation[axis]
        reach = dilation * (size - 1)
        padding = 0 if isinstance(self.padding, str) else self.padding[axis]
        # where each tap is, seen from the first pixel that the first branch sees; see _features
        places = [
            [(number + 1) * dilation * tap - number * reach // 2 for tap in range(size)]
            for number in range(self.branches)
        ]
        # as many zeros on both sides: where a branch has one more behind, the kernel has one more tap before
        last = (self.branches - 1) * reach
        before = last - last // 2
        step = math.gcd(*(place + before for row in places for place in row)) or 1
        return [[(place + before) // step for place in row] for row in places], padding + before, step

    def static_obstacle(self) -> str:
        """See the base class."""
        if self.norms is not None:
            return "activation=True puts a ReLU behind each branch"
        if self.padding == "same" and any(
            d * (k - 1) % 2 or s > d * (k - 1) + 1
            for d, k, s in zip(self.dilation, self.kernel_size, self.stride, strict=True)
        ):
            return "padding='same' of an even kernel, or of one smaller than its stride, is not that of a larger kernel"
        return ""

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from ``M W`` in the first branch and zeros in the others, under equal attention.

        Raises:
            ValueError: If the branches have a ReLU.
        """
        if self.norms is not None:
            raise ValueError("activation=True cannot start from a given convolution: use preserve_outputs=False")
        nn.init.zeros_(self.branch.select.weight)
        nn.init.zeros_(self.weight)
        self.weight[0].copy_(self.branches * weight)
        if self.bias is not None and bias is not None:
            nn.init.zeros_(self.bias)
            self.bias[0].copy_(self.branches * bias)

    def extra_repr(self) -> str:
        """Add the number of branches."""
        return f"{super().extra_repr()}, branches={self.branches}"

    def _features(self, x: Tensor) -> Tensor:
        """Compute all branches, ``[B, M, C_out, H', W']``."""
        (top, bottom), (left, right) = self.pads(x)
        reach = [dilation * (kernel - 1) for dilation, kernel in zip(self.dilation, self.kernel_size, strict=True)]
        features = []
        for number, kernel in enumerate(self.weight):
            # as many more zeros as the kernel reaches further; an even kernel gets the odd one behind
            (up, down), (west, east) = ((number * r // 2, number * r - number * r // 2) for r in reach)
            edges = (left + west, right + east, top + up, bottom + down)
            # "same" zeros are others at other sizes: an exporter must not ask
            pads = (self.padding == "same" and is_exporting()) or any(edges)
            padded = F.pad(x, edges, mode=_PADDING_MODES[self.padding_mode]) if pads else x
            dilation = tuple((number + 1) * d for d in self.dilation)
            bias = None if self.bias is None else self.bias[number]
            output = F.conv2d(padded, kernel, bias, self.stride, 0, dilation, self.groups)
            features.append(output if self.norms is None else torch.relu(apply_norm(self.norms[number], output)))
        return torch.stack(features, 1)
