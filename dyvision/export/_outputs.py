"""The outputs of a network under the names that they have in its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def outputs_of(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Call the network; its outputs by name, ``output`` if there is one."""
    with torch.no_grad():
        found = dict(_named(network(images), ()))
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{type(network).__name__} must return a tensor, or a list, tuple or dict of tensors")
    return {name if name[:1].isalpha() else f"output_{name}" if name else "output": found[name] for name in found}


def _named(value: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """What is in nested lists, tuples and dicts, in the order in which an exported program returns it."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _named(item, (*names, str(name)))
    else:
        yield "_".join(names), value
