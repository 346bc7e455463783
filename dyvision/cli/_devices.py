"""The device that a command computes on."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """Return the device of ``--device``.

    Raises:
        ValueError: If there is none of that name here, with those that there are.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        available = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise ValueError(f"--device {name} is not available here; there is {available}") from error
    return device
