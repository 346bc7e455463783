"""Models that no convolution can be replaced in, said in one line before anything is tried."""

from __future__ import annotations

import torch
from torch import nn

#: where PyTorch has its quantised modules and those that prepare them
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.qat", "torch.ao.nn.intrinsic.q", "torch.ao.nn.sparse.quantized")


def check_is_plain(model: nn.Module, verb: str) -> None:
    """Refuse scripted and quantised models, and what is no model.

    Args:
        model: Any module.
        verb: What it is wanted for.

    Raises:
        ValueError: If it is one of these; the message names it and the way out.
        TypeError: If it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{verb} takes an nn.Module, not a {type(model).__name__}; dyvision.create_model makes one from a name"
        )
    for name, module in model.named_modules():
        named = f"{name} is" if name else f"{type(model).__name__} is"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{named} a TorchScript program, whose operations are fixed: {verb} the module it is from")
        if type(module).__module__.startswith(_QUANTIZED):
            raise ValueError(
                f"{named} quantised ({type(module).__name__}): {verb} the network in floating point, and quantise that"
            )
