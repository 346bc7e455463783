"""The start of most coefficient branches, pooling and linear layers: in one call where there are kernels for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from dyvision.ops import native
from dyvision.ops.plain import is_plain_inference

#: multiply-adds of the layers from which products of the library are faster
_LARGE = 2**22


def pooled_perceptron(x: Tensor, first: nn.Linear | None, second: nn.Linear, sigmoid: bool = False) -> Tensor | None:
    """Compute ``second(relu(first(pooled)))``, or ``second(pooled)``, of the means of the channels.

    Args:
        x: ``[B, C, H, W]``.
        first: From C to any number; None without such a layer.
        second: From that, or C, to N.
        sigmoid: Whether it is applied to the result.

    Returns:
        ``[B, N]``; None where the layers have to be called: where a call is no plain inference, and for large layers.
    """
    parts = [None if layer is None else (layer.weight, layer.bias) for layer in (first, second)]
    tensors = [tensor for part in parts if part is not None for tensor in part]
    if not is_plain_inference(x, tensors):
        return None
    last = parts[1]
    assert last is not None
    if x.ndim != 4:
        return None
    width = x.shape[1]
    for weight, bias in [part for part in parts if part is not None]:
        # the layers say what is wrong; nothing beside the tensors is read, not even beside a bias that they repeat
        if weight.ndim != 2 or weight.shape[1] != width or (bias is not None and bias.shape != weight.shape[:1]):
            return None
        width = len(weight)
    weights = [part[0].shape for part in parts if part is not None]
    return native.perceptron(x, parts[0], last, sigmoid) if is_small(len(x), *weights) else None


def is_small(batch: int, *weights: Sequence[int]) -> bool:
    """Whether linear layers with weights of these shapes are too small for the library's products."""
    return batch * sum(math.prod(shape) for shape in weights) <= _LARGE
