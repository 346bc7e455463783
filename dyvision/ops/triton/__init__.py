"""Triton kernels of per-sample convolutions for CUDA devices; importing this package needs no Triton."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from dyvision.ops.triton._convolution import dense, depthwise
from dyvision.ops.triton._pointwise import mixture_pointwise

__all__ = ("DTYPES", "available", "dense", "depthwise", "mixture_pointwise")

#: types the kernels read and write; they all accumulate in float32
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def available(device: torch.device | str) -> bool:
    """Tell whether the kernels run on a device.

    Args:
        device: A device; without an index, the current one of that type.

    Returns:
        True for a CUDA device of compute capability 8.0 or newer, or an AMD device, if Triton is installed. The CPU
        is never one, although Triton's interpreter (``TRITON_INTERPRET=1``) runs the kernels there, slowly, for tests.
    """
    device = torch.device(device)
    if device.type != "cuda" or not _installed() or not torch.cuda.is_available():
        return False
    # Triton 3 supports nothing older, and bfloat16 needs it too
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
