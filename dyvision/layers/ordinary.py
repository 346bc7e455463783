"""Whether calling a module is what its class says: only then may something else compute it."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import nn
from torch.nn.modules import module as _of_all

_Module = TypeVar("_Module", bound=nn.Module)


def is_ordinary(module: nn.Module | None, kind: type[_Module]) -> TypeGuard[_Module]:
    """Whether to call a module is to compute what its class does, with nobody who listens."""
    if module is None:
        return False
    # private: torch lists the hooks of modules, and those of all modules, nowhere else
    listens = module._forward_hooks or module._forward_pre_hooks or _of_all._global_forward_hooks
    replaced = "forward" in vars(module)  # on the instance, as accelerate does
    return type(module) is kind and not (listens or _of_all._global_forward_pre_hooks or replaced)
