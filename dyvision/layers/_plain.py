"""A static convolution under the geometry of the dynamic ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.geometry import Padding, Size, resolve


def plain_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Compute ``F.conv2d`` whose ``padding="same"`` also works with a stride (TensorFlow's rule)."""
    edges, geometry = resolve(x.shape, weight.shape[-2:], stride, padding, dilation, groups)
    x = x if edges is None else F.pad(x, edges)
    return F.conv2d(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation, groups)
