"""The branch of ODConv: four attentions.

See :mod:`dyvision.layers.odconv` for paper and official files.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._initialise import FAN_OUT, reset_children
from dyvision.layers.norm import GuardedBatchNorm1d, affine, apply_norm, is_foldable


class ODConvCoefficients(NamedTuple):
    """Attentions over the four dimensions of the kernels; None where the layer has none.

    Attributes:
        channel: a_c ``[B, C_in]`` in (0, 1), scales the input.
        filter: a_f ``[B, C_out]`` in (0, 1), scales the output; None for a depthwise convolution.
        spatial: a_s ``[B, kH, kW]`` in (0, 1), scales the kernels' taps; None for a 1x1 kernel.
        kernel: a_w ``[B, K]``, rows sum to one; None for a single kernel.
    """

    channel: Tensor
    filter: Tensor | None
    spatial: Tensor | None
    kernel: Tensor | None


class ODConvAttention(CoefficientBranch):
    """Logits of the attentions: linear layers on ``h = ReLU(BN(Wh GAP(x)))``.

    Args:
        in_channels: Channels of the input.
        hidden: Width A of h.
        out_channels: Outputs of the filter attention; 0 for none.
        taps: Outputs of the spatial attention; 0 for none.
        num_kernels: Outputs of the kernel attention; 0 for none.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        taps: int,
        num_kernels: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        #: lengths of the logits, in the order of :class:`ODConvCoefficients`
        self.sizes = (in_channels, out_channels, taps, num_kernels)
        start: dict[str, Any] = {"initializer": FAN_OUT, **dd}
        self.fc = PreciseLinear(in_channels, hidden, bias=False, **start)
        self.bn = GuardedBatchNorm1d(hidden, **dd)
        self.channel_fc = PreciseLinear(hidden, in_channels, **start)
        self.filter_fc: PreciseLinear | None = PreciseLinear(hidden, out_channels, **start) if out_channels else None
        self.spatial_fc: PreciseLinear | None = PreciseLinear(hidden, taps, **start) if taps else None
        self.kernel_fc: PreciseLinear | None = PreciseLinear(hidden, num_kernels, **start) if num_kernels else None
        #: all of them as one, after :meth:`fuse`
        self.fused_fc: PreciseLinear | None = None

    @property
    def heads(self) -> tuple[PreciseLinear | None, ...]:
        """The layers that predict the logits, in the order of :class:`ODConvCoefficients`."""
        return self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc

    def reset_parameters(self) -> None:
        """Kaiming-normal (fan out), bias 0."""
        reset_children(self)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, C_in]`` to the logits ``[B, sum(sizes)]``; the layer divides them by its temperature."""
        hidden = self.fc(pooled)
        if self.fused_fc is not None:
            return self.fused_fc(torch.relu(hidden))
        hidden = torch.relu(apply_norm(self.bn, hidden))
        return torch.cat([head(hidden) for head in self.heads if head is not None], 1)

    def perceptron(self) -> tuple[PreciseLinear, PreciseLinear] | None:
        """See the base class."""
        return None if self.fused_fc is None else (self.fc, self.fused_fc)

    def fuse(self, temperature: float) -> None:
        """Fold the norm into the layer before it, and the temperature into the heads, which become one; in place.

        Nothing is done with a norm that is no factor and shift (see :func:`is_foldable`).
        """
        if not is_foldable(self.bn):
            return
        factor, shift = affine(self.bn, self.fc.weight.dtype)
        self.fc.weight.mul_(factor[:, None])
        self.fc.bias = nn.Parameter(shift)
        heads = [head for head in self.heads if head is not None]
        weight, bias = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        self.fused_fc = PreciseLinear.of(weight / temperature, bias / temperature)
        del self.bn, self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc
