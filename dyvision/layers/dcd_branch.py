"""The branch of DCD, and the sizes of its parts.

See :mod:`dyvision.layers.dcd` for paper and official files.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._initialise import Initializer, reset_children
from dyvision.layers.ordinary import is_ordinary
from dyvision.ops.modes import is_traced
from dyvision.ops.native import LowRankWeights

#: the released MobileNetV2 weights use 16; the official code's default is 8
SQUEEZE = 16
FORMS = ("pointwise", "basic", "bottleneck")
#: start of the branch of pointwise layers
SMALL: Initializer = partial(nn.init.normal_, std=0.01)


class DCDCoefficients(NamedTuple):
    """Lambda and Phi.

    Attributes:
        scale: Lambda ``[B, C_out]`` in [0, 2].
        fusion: The blocks of Phi ``[B, blocks, L/blocks, L/blocks]``; the row is the output.
    """

    scale: Tensor
    fusion: Tensor


def hard_sigmoid2(z: Tensor) -> Tensor:
    """Hard sigmoid with range [0, 2], one at zero: ``relu6(z + 3) / 3``."""
    if torch.is_grad_enabled() or torch.jit.is_tracing():  # which checks its graph with and without gradients
        return F.relu6(z + 3) / 3  # F.hardsigmoid has no second derivative, but takes half the time
    return 2 * F.hardsigmoid(z)


def dimensions(
    in_channels: int, out_channels: int, form: str, squeeze: int, rank: int | None = None, blocks: int = 1
) -> tuple[int, int, int]:
    """Size p of the pooled map, rank L and width S of the branch, as the official classes compute them.

    Args:
        in_channels: Channels I.
        out_channels: Channels O.
        form: ``"pointwise"`` (``DYModule``), ``"basic"`` (``conv_basic_dy``) or ``"bottleneck"`` (``conv_dy``).
        squeeze: Reduction of the branch (the official ResNet forms fix it at 16).
        rank: Overrides L, on which S depends.
        blocks: Number of blocks of Phi; the automatic L is rounded up to a multiple.

    Returns:
        ``(p, L, S)``.
    """
    pool = 2 if form == "basic" or (form == "pointwise" and in_channels < out_channels) else 1
    pooled = in_channels * pool**2
    if rank is None:
        rank = _pointwise_rank(in_channels, out_channels) if form == "pointwise" else max(int(math.sqrt(pooled)), 1)
        rank += -rank % blocks
    # without the lower bound the official bottleneck formula gives 0 below 16 channels
    return pool, rank, max(max(pooled, rank**2 // blocks) // squeeze, 1 if form == "bottleneck" else 4)


def _pointwise_rank(in_channels: int, out_channels: int) -> int:
    multiplier, reduction = (4, 8) if in_channels < out_channels else (1, 2)
    while True:
        rank = min(multiplier * in_channels // reduction, out_channels // reduction)
        if rank**2 <= 2 * multiplier * in_channels:
            return max(rank, 4)
        reduction *= 2


class DCDBranch(CoefficientBranch):
    """Predicts Lambda and Phi: ``z = F1 v``, ``e = z * hs2(F2 z)``, ``Lambda = hs2(Fs e)``, ``Phi = Fphi e``.

    Args:
        in_channels: Channels of the input.
        out_channels: Length of Lambda.
        rank: Side L of Phi.
        width: Width S of e.
        pool_size: Side p of the pooled map.
        blocks: Number of blocks of Phi.
        initializer: Of all its layers; by default PyTorch's own.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rank: int,
        width: int,
        pool_size: int,
        blocks: int = 1,
        initializer: Initializer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.pool_size, self.blocks = rank, pool_size, blocks
        dd: dict[str, Any] = {"initializer": initializer, "device": device, "dtype": dtype}
        self.squeeze = PreciseLinear(in_channels * pool_size**2, width, bias=False, **dd)
        self.gate = PreciseLinear(width, width, bias=False, **dd)
        self.fc_scale = PreciseLinear(width, out_channels, bias=False, **dd)
        self.fc_phi = PreciseLinear(width, rank * rank // blocks, bias=False, **dd)
        #: both as one, after :meth:`fuse`
        self.fused_fc: PreciseLinear | None = None

    def reset_parameters(self) -> None:
        """By the initializer: N(0, 0.01) as the official MobileNetV2; the official ResNets keep torch's own."""
        reset_children(self)

    def predict(self, pooled: Tensor) -> DCDCoefficients:
        """Map ``[B, C * p * p]`` to Lambda and Phi."""
        squeezed = self.squeeze(pooled)
        embedding = squeezed * hard_sigmoid2(self.gate(squeezed))
        side = self.rank // self.blocks
        if self.fused_fc is None:
            scale, fusion = self.fc_scale(embedding), self.fc_phi(embedding)
        else:
            scale, fusion = self.fused_fc(embedding).split((self.fused_fc.out_features - side**2, side**2), 1)
        return DCDCoefficients(hard_sigmoid2(scale), fusion.unflatten(1, (self.blocks, side, side)))

    def low_rank_weights(self, reduce: nn.Conv2d, expand: nn.Conv2d, bias: Tensor | None) -> LowRankWeights | None:
        """The parameters of the branch, of Q and P, and the layer's bias, for all of it in one call.

        None before :meth:`fuse`, and where modules have to be called: if one is of another class or has a hook.
        """
        predict = self.fused_fc
        if predict is None or is_traced() or not is_ordinary(self, DCDBranch):
            return None
        if not all(is_ordinary(linear, PreciseLinear) for linear in (self.squeeze, self.gate, predict)):
            return None
        assert predict.bias is not None and reduce.bias is not None
        return LowRankWeights(
            squeeze=self.squeeze.weight,
            gate=self.gate.weight,
            predict=predict.weight,
            predict_bias=predict.bias,
            expand=expand.weight,
            expand_bias=expand.bias,
            reduce=reduce.weight,
            reduce_bias=reduce.bias,
            bias=bias,
        )

    def fuse(self, factor: Tensor) -> None:
        """Predict ``diag(factor) Phi + 1`` for the one block's Phi, by one layer with Lambda; in place."""
        phi = self.fc_phi.weight * factor.repeat_interleave(self.rank)[:, None]
        one = torch.eye(self.rank, dtype=phi.dtype, device=phi.device).flatten()
        weight = torch.cat([self.fc_scale.weight, phi])
        self.fused_fc = PreciseLinear.of(weight, torch.cat([one.new_zeros(self.fc_scale.out_features), one]))
        del self.fc_scale, self.fc_phi
