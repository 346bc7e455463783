"""Whether stored tensors hold the kind of number that a network has in their place.

``copy_``, with which PyTorch loads a state dict, turns every kind of number into every other: weights that were saved
as truth values become 0 and 1 without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dyvision.text import printable


def check_kinds(state: Mapping[str, Tensor], target: Mapping[str, Tensor], where: str, what: str = "") -> None:
    """Check that stored values can take the place of others: one floating-point type may stand for another.

    Args:
        state: Stored tensors by name.
        target: Those of the network; names that only one of the two has are left alone.
        where: The file, for messages.
        what: What stands before a name in messages.

    Raises:
        ValueError: If numbers would be turned into others, with the tensor and both types.
    """
    for name, tensor in state.items():
        wanted = target.get(name)
        if not isinstance(tensor, Tensor) or not isinstance(wanted, Tensor) or _fits(tensor, wanted):
            continue
        raise ValueError(
            f"{where}: {printable(what + name)} holds {_word(tensor)} ({_short(tensor.dtype)}), expected "
            f"{_word(wanted)} ({_short(wanted.dtype)}); the file was changed or written by another program. Use "
            f"an earlier checkpoint or another file, or save the tensor as {_short(wanted.dtype)}"
        )


def _fits(tensor: Tensor, wanted: Tensor) -> bool:
    if tensor.is_floating_point() and _word(wanted) == "whole numbers":
        # {name: tensor.half()} over a whole state dict turns counters, too
        return tensor.device.type == "meta" or bool(((tensor == tensor.round()) & (tensor.abs() < 2**53)).all())
    if wanted.is_floating_point() and wanted.ndim == tensor.ndim == 0 and _word(tensor) == "whole numbers":
        return True  # DGC counted channels in whole numbers once
    if _word(tensor) != _word(wanted):
        return False
    if _word(tensor) != "whole numbers" or tensor.dtype == wanted.dtype or tensor.device.type == "meta":
        return True
    limits = torch.iinfo(wanted.dtype)
    return tensor.numel() == 0 or (int(tensor.min()) >= limits.min and int(tensor.max()) <= limits.max)


def _word(tensor: Tensor) -> str:
    if tensor.is_quantized:
        return "quantised values"
    if tensor.is_complex():
        return "complex numbers"
    if tensor.is_floating_point():
        return "floating-point numbers"
    return "truth values" if tensor.dtype == torch.bool else "whole numbers"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
