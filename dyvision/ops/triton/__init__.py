"""Triton kernels of per-sample convolutions for CUDA devices; importing this package needs no Triton."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from dyvision.ops.triton._convolution import dense, depthwise
from dyvision.ops.triton._pointwise import mixture_pointwise

__all__ = ("DTYPES", "available", "dense", "depthwise", "mixture_pointwise", "reason")

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
    return not reason(device)


def reason(device: torch.device | str) -> str:
    """Say why the kernels do not run on a device, in one line; empty if they do."""
    device = torch.device(device)
    if device.type != "cuda":
        return "for GPUs only"
    if not _installed():
        return 'Triton is not installed: pip install "dyvision[triton]"'
    if not torch.cuda.is_available():
        return "no GPU was found"
    # Triton 3 supports nothing older, and bfloat16 needs it too
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return ""


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
