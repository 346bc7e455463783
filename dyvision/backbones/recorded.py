"""What a network was made with, so that it can be described and made again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from torch import nn

Arguments = ParamSpec("Arguments")
Network = TypeVar("Network", bound=nn.Module)

#: attribute of a network with the arguments it was made with
_ATTRIBUTE = "dyvision_arguments"


@dataclass(frozen=True)
class NotPlain:
    """Stands for an argument that no file can hold, such as a function, so that the network can still be pickled."""

    text: str

    def __repr__(self) -> str:
        return self.text


def records_arguments(create: Callable[Arguments, Network]) -> Callable[Arguments, Network]:
    """Decorator of a function that makes a network: leaves its arguments on the network."""
    signature = inspect.signature(create)

    @functools.wraps(create)
    def recorded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Network:
        network = create(*args, **kwargs)
        given = dict(signature.bind(*args, **kwargs).arguments)
        more = given.pop("layer_arguments", {})
        if more:
            given["layer_kwargs"] = {**(given.get("layer_kwargs") or {}), **more}
        given.pop("pretrained", None)  # the network has its weights
        setattr(network, _ATTRIBUTE, _plain(given))
        return network

    return recorded


def arguments_of(network: nn.Module) -> dict[str, Any] | None:
    """Arguments with which the same function makes this network again, without its weights; None if none did."""
    given = getattr(network, _ATTRIBUTE, None)
    if given is None:
        return None
    # timm's reset_classifier changes it
    classes = getattr(network, "num_classes", None)
    return dict(given) if classes is None else {**given, "num_classes": classes}


def _plain(value: Any) -> Any:
    """A copy that is made of plain values."""
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return value if isinstance(value, str | int | float | bool | None) else NotPlain(repr(value))
