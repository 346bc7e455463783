"""Activations that a convolution may compute itself: where its kernels do not, they are applied to its output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.modes import is_traced


def activated(output: Tensor, activation: str) -> Tensor:
    """Apply one of :data:`dyvision.ops.native.ACTIVATIONS` to an output that nobody else has."""
    if activation == "none":
        return output
    in_place = not (is_traced() or torch.is_grad_enabled())
    return F.relu(output, in_place) if activation == "relu" else F.relu6(output, in_place)
