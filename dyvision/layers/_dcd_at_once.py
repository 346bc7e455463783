"""DCD after ``dyvision.fuse`` in plain inference: branch, folding and convolution in a few calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from dyvision.layers._branch import PreciseLinear, is_ordinary
from dyvision.layers.dcd_branch import DCDBranch
from dyvision.ops.low_rank import low_rank_conv2d
from dyvision.ops.native import LowRankWeights

if TYPE_CHECKING:
    from dyvision.layers.dcd import DCDConv2d


def convolve_at_once(layer: DCDConv2d, x: Tensor) -> Tensor | None:
    """Predict the coefficients and convolve ``[B, C_in, H, W]``.

    Returns:
        ``[B, C_out, H', W']``; None where modules have to be called one by one: before :meth:`DCDConv2d.fuse_branch`,
        if one of them is of another class or has a hook, and where there is no code for it.
    """
    branch = layer.branch
    predict = branch.fused_fc
    if predict is None or layer.padding_mode != "zeros" or not is_ordinary(branch, DCDBranch):
        return None
    if not all(is_ordinary(linear, PreciseLinear) for linear in (branch.squeeze, branch.gate, predict)):
        return None
    weights = LowRankWeights(
        squeeze=branch.squeeze.weight,
        gate=branch.gate.weight,
        predict=predict.weight,
        predict_bias=predict.bias,
        expand=layer.conv_p.weight.flatten(1),
        expand_bias=layer.conv_p.bias,
        reduce=layer.conv_q.weight.flatten(1),
        reduce_bias=layer.conv_q.bias,
        bias=layer.bias,
    )
    _, geometry = layer.convolution_arguments(x)
    return low_rank_conv2d(x, layer.weight, weights, branch.pool_size, layer.centred, geometry)
