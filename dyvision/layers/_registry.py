"""Layers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from dyvision.layers.arguments import abstract_methods
from dyvision.registry import OWN_NAMES, Registry
from dyvision.text import did_you_mean

_LAYERS: dict[str, type[nn.Module]] = {}
_REGISTRY = Registry("layer", _LAYERS, ("layer",))
LayerType = TypeVar("LayerType", bound=type[nn.Module])


def register_layer(name: str) -> Callable[[LayerType], LayerType]:
    """Register a layer class under a name.

    Raises:
        ValueError: If the name is no word, or taken.
        TypeError: If it is no class of a layer, or leaves a method to its subclasses.
    """

    def check(layer: type[nn.Module]) -> type[nn.Module]:
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            raise TypeError(f"layer {name!r}: {layer!r} is no subclass of torch.nn.Module")
        missing = abstract_methods(layer)
        if missing:
            raise TypeError(f"layer {name!r}: {layer.__name__} does not implement {', '.join(missing)}")
        return layer

    return _REGISTRY.decorator(name, check)


def list_layers() -> list[str]:
    """Names of all layers, sorted; ``"static"`` is the ordinary convolution."""
    return _REGISTRY.names()


def get_layer(name: str) -> type[nn.Module]:
    """Return the class registered under a name.

    Raises:
        ValueError: If there is none; the message gives the closest names.
    """
    found = _REGISTRY.find(name)
    if found is None:
        hint = did_you_mean(name, _LAYERS) or OWN_NAMES
        raise ValueError(f"unknown layer {name!r}{hint}; layers are {', '.join(list_layers())}")
    return found
