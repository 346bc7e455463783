"""The residual of DCD with norms that take the statistics of a batch, so that it is no kernel.

See :mod:`dyvision.layers.dcd` for paper and official files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyvision.layers._initialise import InitialisedConv2d
from dyvision.layers.norm import apply_norm
from dyvision.layers.ordinary import is_ordinary
from dyvision.ops import mixture_conv2d
from dyvision.ops.geometry import is_channels_last
from dyvision.ops.plain import is_plain
from dyvision.ops.planned import plans_natively

#: stride, padding, dilation and groups
_POINTWISE = (1, 0, 1, 1)


def fuse_channels(low: Tensor, fusion: Tensor, norms: tuple[nn.Module, nn.Module]) -> Tensor:
    """``BN2(Phi BN1(low)) + BN1(low)``.

    Args:
        low: ``Q x``, ``[B, L, H, W]``.
        fusion: The blocks of Phi ``[B, blocks, L/blocks, L/blocks]``.
        norms: BN1 and BN2.
    """
    low = apply_norm(norms[0], low)
    (batch, rank, height, width), blocks = low.shape, fusion.shape[1]
    fusion = fusion.to(low.dtype)
    if blocks == 1 and is_channels_last(low):
        # without a copy to channels first and back
        rows = low.permute(0, 2, 3, 1).reshape(batch, height * width, rank)
        mixed = torch.bmm(rows, fusion[:, 0].transpose(1, 2)).view(batch, height, width, rank).permute(0, 3, 1, 2)
    else:
        parts = low.reshape(batch * blocks, rank // blocks, height * width)
        mixed = torch.bmm(fusion.flatten(0, 1), parts).view(batch, rank, height, width)
    return apply_norm(norms[1], mixed) + low


def train_pointwise(
    x: Tensor,
    scale: Tensor,
    fusion: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reduce: nn.Module,
    expand: nn.Module,
    norms: tuple[nn.Module, nn.Module],
) -> Tensor | None:
    """``Lambda (W0 x + bias) + P u'`` without a map of ``W0 x``, which only Lambda's gradient would be kept for.

    Args:
        x: ``[B, I, H, W]``.
        scale: Lambda ``[B, O]``.
        fusion: Phi ``[B, L, L]``.
        weight: W0 ``[O, I, 1, 1]``.
        bias: ``[O]`` or None.
        reduce: Q, a convolution from I to L channels.
        expand: P, a convolution from L to O channels.
        norms: BN1 and BN2.

    Returns:
        ``[B, O, H, W]``; None where a convolution with scaled kernels would not be native.
    """
    if not all(is_ordinary(conv, InitialisedConv2d) for conv in (reduce, expand)):
        return None
    assert isinstance(reduce, nn.Conv2d) and isinstance(expand, nn.Conv2d)
    tensors = [t for t in (x, scale, fusion, weight, bias, reduce.weight, expand.weight) if t is not None]
    if expand.bias is not None or not is_plain(tensors):
        return None
    if not plans_natively(x.shape, (1, *weight.shape), _POINTWISE, training=True, linear=False):
        return None
    batch, (rank, inputs), outputs, size = len(x), reduce.weight.shape[:2], len(weight), x.shape[2:]
    joint = outputs < inputs
    if joint:  # the larger one of both maps is read once, and its gradient written once
        weight, scale = torch.cat([weight, reduce.weight]), torch.cat([scale, scale.new_ones(batch, rank)], 1)
        bias = None if bias is None else torch.cat([bias, bias.new_zeros(rank)])
    scaled = mixture_conv2d(x, weight[None], scale[:, None], None if bias is None else bias[None])
    if joint:
        scaled, low = scaled.split_with_sizes((outputs, rank), 1)
    else:
        low = torch.bmm(reduce.weight.flatten(1).expand(batch, -1, -1), x.flatten(2)).unflatten(2, size)
    fused = fuse_channels(low, fusion[:, None], norms).flatten(2)
    return torch.baddbmm(scaled.flatten(2), expand.weight.flatten(1).expand(batch, -1, -1), fused).unflatten(2, size)
