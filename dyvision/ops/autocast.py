"""Whether autocast is on, what it makes of a convolution, and contexts without it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off; entering its context where it is off already would cost as much as a small product."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; it knows no "meta" device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def convolution_dtype(input: Tensor) -> torch.dtype:
    """The type in which the library would convolve an input: its own, or autocast's."""
    if input.dtype != torch.float64 and autocasts(input.device):
        return torch.get_autocast_dtype(input.device.type)
    return input.dtype
