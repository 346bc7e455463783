"""What a network was made with, so that it can be described and made again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import nn

Arguments = ParamSpec("Arguments")
Network = TypeVar("Network", bound=nn.Module)

#: attribute of a network with the arguments it was made with
_ATTRIBUTE = "dyvision_arguments"


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
        # weights are not arguments, but decide one: a dynamic classifier that starts from them has a bias
        if given.pop("pretrained", False) and given.get("preserve_outputs") is None:
            given["preserve_outputs"] = True
        setattr(network, _ATTRIBUTE, given)
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
