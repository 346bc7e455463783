"""The branch of FDConv: gates of the kernel along its axes, of its frequency groups, and of every weight.

See :mod:`dyvision.layers.fdconv` for paper and official files.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._initialise import FAN_OUT, InitialisedConv1d, reset_children
from dyvision.layers.frequency import conv1d_size
from dyvision.layers.norm import GuardedBatchNorm1d, apply_norm


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
        self.fc = PreciseLinear(in_channels, hidden, bias=False, initializer=FAN_OUT, **dd)
        self.bn = GuardedBatchNorm1d(hidden, **dd)
        # StarReLU: scale * relu(z)^2 + shift
        self.star_scale = nn.Parameter(torch.empty(1, **dd))
        self.star_shift = nn.Parameter(torch.empty(1, **dd))

        near_zero = partial(nn.init.normal_, std=1e-6)

        def head(outputs: int, wanted: bool, initializer: Any = near_zero) -> PreciseLinear | None:
            return PreciseLinear(hidden, outputs, initializer=initializer, **dd) if wanted else None

        self.channel_fc = head(in_channels, axes)
        self.filter_fc = head(out_channels, axes, FAN_OUT)
        self.spatial_fc = head(taps, axes and taps > 1)
        self.kernel_fc = head(num_gates, num_gates > 1)
        self.norm = nn.LayerNorm(in_channels, **dd) if local else None
        size = conv1d_size(in_channels)
        start = partial(nn.init.constant_, val=1e-6)
        self.local_conv = (
            InitialisedConv1d(1, out_channels * taps, size, bias=False, initializer=start, **dd) if local else None
        )

    @property
    def heads(self) -> tuple[PreciseLinear | None, ...]:
        """The linear layers that predict logits, in the order of :class:`FDConvCoefficients`."""
        return self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc

    def reset_parameters(self) -> None:
        """Gates near one, apart from the filter gates; see the docstring of :mod:`dyvision.layers.fdconv`."""
        nn.init.ones_(self.star_scale)
        nn.init.zeros_(self.star_shift)
        reset_children(self)

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
        hidden = torch.relu(apply_norm(self.bn, self.fc(pooled))).square()
        hidden = self.star_scale.to(dtype) * hidden + self.star_shift.to(dtype)
        channel, filters, spatial, kernel = (None if head is None else head(hidden) for head in self.heads)
        kernel = hidden.new_zeros(hidden.shape[0], 1) if kernel is None else kernel
        return FDConvCoefficients(channel, filters, spatial, kernel, self._local(pooled))

    def _local(self, pooled: Tensor) -> Tensor | None:
        """Logits of the weights ``[B, C_out, C_in/groups, k, k]``; each group keeps its own inputs."""
        if self.norm is None or self.local_conv is None:
            return None
        rows = self._normalise(self.norm, pooled)
        weight = self.local_conv.weight.to(pooled.dtype)
        local = F.conv1d(rows[:, None], weight, padding=self.local_conv.kernel_size[0] // 2)
        out_channels, inputs, height, width = self.kernel_shape
        groups = local.shape[2] // inputs
        split = local.view(-1, groups, out_channels // groups, height, width, groups, inputs)
        own = split.squeeze(5).squeeze(1) if groups == 1 else split.diagonal(dim1=1, dim2=5).movedim(-1, 1)
        return own.reshape(-1, out_channels, height, width, inputs).movedim(-1, 2)

    @staticmethod
    def _normalise(norm: nn.Module, pooled: Tensor) -> Tensor:
        if type(norm) is not nn.LayerNorm or not norm.elementwise_affine:
            return apply_norm(norm, pooled)
        # the parameters of a model in half precision, but not the rows: unlike a BatchNorm it has no statistics
        weight, bias = norm.weight.to(pooled.dtype), None if norm.bias is None else norm.bias.to(pooled.dtype)
        return F.layer_norm(pooled, norm.normalized_shape, weight, bias, norm.eps)
