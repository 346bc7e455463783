"""Layers by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from dyvision.layers.arguments import abstract_methods

_LAYERS: dict[str, type[nn.Module]] = {}
LayerType = TypeVar("LayerType", bound=type[nn.Module])


def register_layer(name: str) -> Callable[[LayerType], LayerType]:
    """Register a layer class under a name.

    Raises:
        ValueError: If the name is taken.
        TypeError: If the class leaves a method to its subclasses.
    """

    def register(layer: LayerType) -> LayerType:
        if name in _LAYERS:
            raise ValueError(f"layer {name!r} is registered already, as {_LAYERS[name].__name__}")
        missing = abstract_methods(layer)
        if missing:
            raise TypeError(f"layer {name!r}: {layer.__name__} does not implement {', '.join(missing)}")
        _LAYERS[name] = layer
        return layer

    return register


def list_layers() -> list[str]:
    """Names of all layers, sorted; ``"static"`` is the ordinary convolution."""
    return sorted(_LAYERS)


def get_layer(name: str) -> type[nn.Module]:
    """Return the class registered under a name.

    Raises:
        ValueError: If there is none; the message gives the closest names.
    """
    if name not in _LAYERS:
        near = difflib.get_close_matches(str(name), _LAYERS, n=3, cutoff=0.5)
        hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise ValueError(f"unknown layer {name!r}{hint}; layers are {', '.join(list_layers())}")
    return _LAYERS[name]
