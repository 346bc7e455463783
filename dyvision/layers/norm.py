"""Batch normalisation that survives a single value per channel.

In training, batch statistics of one value are undefined and PyTorch raises; a coefficient branch meets that case at
batch size 1 on a 1x1 map. The running statistics are used for such a call, and not updated.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _running_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, input: Tensor) -> Tensor | None:
    if not norm.training or norm.running_mean is None or input.numel() > input.shape[1]:
        return None
    return F.batch_norm(input, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def is_foldable(norm: nn.Module) -> bool:
    """Whether a module is a BatchNorm that evaluates with running statistics, and nothing more: a factor and a shift.

    People swap the norms of a network: for GroupNorm, for a BatchNorm without statistics, for one with an activation.
    """
    return type(norm) in BATCH_NORMS and not norm.training and norm.running_mean is not None


def affine(norm: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factor and shift ``[C]`` of a normalisation that :func:`is_foldable`."""
    norm = cast(nn.BatchNorm2d, norm)
    assert norm.running_mean is not None and norm.running_var is not None
    factor = (norm.running_var.to(dtype) + norm.eps).rsqrt()
    if norm.weight is None:
        return factor, -factor * norm.running_mean.to(dtype)
    factor = norm.weight.to(dtype) * factor
    return factor, norm.bias.to(dtype) - factor * norm.running_mean.to(dtype)


def apply_norm(norm: nn.Module, input: Tensor) -> Tensor:
    """Normalise in the type of the norm's own parameters or statistics, and return in that of the input.

    The parameters of a model in half precision: a norm computes in one type, which its statistics have.
    """
    own = getattr(norm, "weight", None)
    if own is None:
        own = next((t for t in (*norm.parameters(), *norm.buffers()) if t.is_floating_point()), input)
    if own.dtype == input.dtype:
        return cast(Tensor, norm(input))
    return cast(Tensor, norm(input.to(own.dtype))).to(input.dtype)


def absorb(conv: nn.Module, factor: Tensor, shift: Tensor, weight: Tensor | None = None) -> None:
    """Multiply a convolution's output channels by ``factor [C_out]`` and add ``shift [C_out]``, in place.

    Args:
        conv: With ``bias [..., C_out]`` or None.
        factor: ``[C_out]``.
        shift: ``[C_out]``.
        weight: What is multiplied, ``[..., C_out, C, kH, kW]``; the convolution's weight if None.
    """
    (cast(Tensor, conv.weight) if weight is None else weight).mul_(factor[:, None, None, None])
    bias = cast("Tensor | None", conv.bias)
    conv.bias = nn.Parameter(shift if bias is None else bias * factor + shift)


class GuardedBatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` that uses its running statistics where there is one value per channel."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[B, C]`` or ``[B, C, L]``."""
        output = _running_statistics(self, input)
        return super().forward(input) if output is None else output


class GuardedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that uses its running statistics where there is one value per channel."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[B, C, H, W]``."""
        output = _running_statistics(self, input)
        return super().forward(input) if output is None else output


#: norms that evaluate with running statistics, and nothing more; a tuple, since the compiler of PyTorch 2.6 cannot look
#: classes up in a set
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, GuardedBatchNorm1d, GuardedBatchNorm2d)
