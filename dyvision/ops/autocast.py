"""Whether autocast is on, and contexts without it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off; entering its context where it is off already would cost as much as a small product."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; it knows no "meta" device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
