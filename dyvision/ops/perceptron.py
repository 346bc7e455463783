"""The start of most coefficient branches, pooling and linear layers: in one call where there are kernels for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyvision.ops import native
from dyvision.ops.autocast import autocasts
from dyvision.ops.modes import is_traced, is_watched

#: multiply-adds of the layers from which products of the library are faster
_LARGE = 2**22
_PLAIN = (Tensor, nn.Parameter)


def pooled_perceptron(x: Tensor, first: nn.Linear | None, second: nn.Linear) -> Tensor | None:
    """Compute ``second(relu(first(pooled)))``, or ``second(pooled)``, of the means of the channels.

    Args:
        x: ``[B, C, H, W]``.
        first: From C to any number; None without such a layer.
        second: From that, or C, to N.

    Returns:
        ``[B, N]``; None where the layers have to be called: while gradients are recorded, operations traced or watched,
        in other types and memory formats, on other devices, for large layers, or without the kernels.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or is_traced() or not native.available():
        return None
    layers = (second,) if first is None else (first, second)
    parts = [None if layer is None else (layer.weight, layer.bias) for layer in (first, second)]
    tensors = [x, *(tensor for part in parts if part is not None for tensor in part if tensor is not None)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return None
    alike = all(type(tensor) in _PLAIN and tensor.dtype == x.dtype and tensor.device == x.device for tensor in tensors)
    if not alike or is_watched() or autocasts(x.device) or not x.is_contiguous() or 0 in x.shape:
        return None
    if len(x) * sum(layer.weight.numel() for layer in layers) > _LARGE:
        return None
    assert parts[1] is not None
    return native.perceptron(x, parts[0], parts[1])
