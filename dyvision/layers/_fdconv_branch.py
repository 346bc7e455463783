"""The branch of FDConv: gates of the kernel along its axes, of its frequency groups, and of every weight.

See :mod:`dyvision.layers.fdconv` for paper and official files.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._frequency import conv1d_size
from dyvision.layers._norm import GuardedBatchNorm1d


class FDConvCoefficients(NamedTuple):
    """Gates, one where nothing is changed; None where the layer has none.

    Attributes:
        channel: ``[B, C_in]``.
        filter: ``[B, C_out]``.
        spatial: ``[B, k, k]``; None for a 1x1 kernel.
        kernel: ``[B, r n]``, of the n frequency groups of r spectra.
        local: ``[B, C_out, C_in/groups, k, k]``, one per weight.
    """

    channel: Tensor | None
    filter: Tensor | None
    spatial: Tensor | None
    kernel: Tensor
    local: Tensor | None


class KernelModulation(CoefficientBranch):
    """Logits of all gates: linear layers on a hidden vector, and for the local ones a convolution along channels.

    Args:
        in_channels: Channels of the input.
        kernel_shape: ``(C_out, C_in/groups, k, k)``.
        num_gates: Gates of frequency groups.
        hidden: Width of the hidden vector.
        axes: Whether there are gates of input channels, output channels and taps.
        local: Whether there are gates of single weights.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_shape: tuple[int, int, int, int],
        num_gates: int,
        hidden: int,
        axes: bool = True,
        local: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        out_channels, _, height, width = kernel_shape
        self.kernel_shape, taps = kernel_shape, height * width
        self.fc = PreciseLinear(in_channels, hidden, bias=False, **dd)
        self.bn = GuardedBatchNorm1d(hidden, **dd)
        # StarReLU: scale * relu(z)^2 + shift
        self.star_scale = nn.Parameter(torch.empty(1, **dd))
        self.star_shift = nn.Parameter(torch.empty(1, **dd))

        def head(outputs: int, wanted: bool) -> PreciseLinear | None:
            return PreciseLinear(hidden, outputs, **dd) if wanted else None

        self.channel_fc = head(in_channels, axes)
        self.filter_fc = head(out_channels, axes)
        self.spatial_fc = head(taps, axes and taps > 1)
        self.kernel_fc = head(num_gates, num_gates > 1)
        self.norm = nn.LayerNorm(in_channels, **dd) if local else None
        size = conv1d_size(in_channels)
        self.local_conv = nn.Conv1d(1, out_channels * taps, size, bias=False, **dd) if local else None

    @property
    def heads(self) -> tuple[PreciseLinear | None, ...]:
        """The linear layers that predict logits, in the order of :class:`FDConvCoefficients`."""
        return self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc

    def reset_parameters(self) -> None:
        """Gates near one, apart from the filter gates; see the docstring of :mod:`dyvision.layers.fdconv`."""
        nn.init.ones_(self.star_scale)
        nn.init.zeros_(self.star_shift)
        self.bn.reset_parameters()
        nn.init.kaiming_normal_(self.fc.weight, mode="fan_out", nonlinearity="relu")
        for head in self.heads:
            if head is None:
                continue
            nn.init.zeros_(head.bias)
            if head is self.filter_fc:
                nn.init.kaiming_normal_(head.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.normal_(head.weight, std=1e-6)
        if self.norm is not None and self.local_conv is not None:
            self.norm.reset_parameters()
            nn.init.constant_(self.local_conv.weight, 1e-6)

    def zero_(self) -> None:
        """Make all logits zero, without gradient."""
        for head in self.heads:
            if head is not None:
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
        if self.local_conv is not None:
            nn.init.zeros_(self.local_conv.weight)

    def predict(self, pooled: Tensor) -> FDConvCoefficients:
        """Map ``[B, C_in]`` to the logits of the gates, before the layer's temperatures and activations."""
        dtype = pooled.dtype
        # the parameters of a model in half precision: the norm computes in their type, which its statistics have
        hidden = torch.relu(self.bn(self.fc(pooled).to(self.fc.weight.dtype))).to(dtype).square()
        hidden = self.star_scale.to(dtype) * hidden + self.star_shift.to(dtype)
        channel, filters, spatial, kernel = (None if head is None else head(hidden) for head in self.heads)
        kernel = hidden.new_zeros(len(hidden), 1) if kernel is None else kernel
        return FDConvCoefficients(channel, filters, spatial, kernel, self._local(pooled))

    def _local(self, pooled: Tensor) -> Tensor | None:
        """Logits of the weights ``[B, C_out, C_in/groups, k, k]``; each group keeps its own inputs."""
        if self.norm is None or self.local_conv is None:
            return None
        norm, dtype = self.norm, pooled.dtype
        rows = F.layer_norm(pooled, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
        weight = self.local_conv.weight.to(dtype)
        local = F.conv1d(rows[:, None], weight, padding=weight.shape[2] // 2)
        out_channels, inputs, height, width = self.kernel_shape
        groups = local.shape[2] // inputs
        split = local.view(-1, groups, out_channels // groups, height, width, groups, inputs)
        own = split.squeeze(5).squeeze(1) if groups == 1 else split.diagonal(dim1=1, dim2=5).movedim(-1, 1)
        return own.reshape(-1, out_channels, height, width, inputs).movedim(-1, 2)
