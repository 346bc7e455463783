"""Whether a call is plain inference on a CPU: what kernels of our own may compute, that read addresses."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dyvision.ops import native
from dyvision.ops.autocast import autocasts
from dyvision.ops.modes import is_traced, is_watched

#: subclasses may have no memory, or give another meaning to it
PLAIN = (Tensor, nn.Parameter, type(None))


def is_plain_inference(input: Tensor, others: Iterable[Tensor | None]) -> bool:
    """Tell whether native kernels may compute with these tensors.

    Args:
        input: ``[B, C, H, W]``.
        others: What it is computed with.

    Returns:
        False while gradients are recorded for one of them, while operations are traced, watched or autocast, in other
        types and memory formats than contiguous float32, on other devices, of nothing, and without the kernels.
    """
    if input.device.type != "cpu" or input.dtype != torch.float32 or is_traced() or not native.available():
        return False
    tensors = (input, *(tensor for tensor in others if tensor is not None))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    if not all(type(tensor) in PLAIN and tensor.dtype == torch.float32 and tensor.is_cpu for tensor in tensors):
        return False
    return not is_watched() and not autocasts(input.device) and input.is_contiguous() and input.numel() > 0
