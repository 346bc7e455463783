"""Keywords of functions that hand those that they do not know on to a layer: a wrong one is named, with the closest."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dyvision.layers import DynamicConv2d, get_layer
from dyvision.layers.arguments import UnknownArgumentError, own_arguments
from dyvision.text import did_you_mean


def check_keywords(names: Iterable[str], functions: Iterable[Callable[..., Any]], layer: str) -> None:
    """Check keywords before a network is built or weights are downloaded.

    Args:
        names: What was given.
        functions: What takes them, the one that the user called first; they hand the others on to the layer.
        layer: Name of the layer.

    Raises:
        ValueError: If there is no such layer.
        UnknownArgumentError: For the first keyword that nobody has, with the closest ones.
    """
    functions, own = list(functions), arguments_of_layer(layer)
    known = [*(name for function in functions for name in keywords_of(function)), *own]
    wrong = next((name for name in names if name not in known), None)
    if wrong is None:
        return
    what, hint = functions[0].__name__, did_you_mean(wrong, known)
    if layer == "static":
        raise UnknownArgumentError(f"layer 'static' takes no arguments, and {what} has no {wrong!r}{hint}")
    others = ", ".join(own) or "none"
    raise UnknownArgumentError(f"{what} has no argument {wrong!r}{hint}; those of its layer {layer!r} are: {others}")


def keywords_of(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a function or a class declares."""
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def arguments_of_layer(layer: str) -> list[str]:
    """Names of a layer's own arguments.

    Raises:
        ValueError: If there is no such layer.
    """
    layer_class = get_layer(layer)
    return own_arguments(layer_class, DynamicConv2d) if issubclass(layer_class, DynamicConv2d) else []


def layer_keywords(
    function: Callable[..., Any], layer: str, given: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments for a layer. What ``dynamize`` itself takes does not pass as one of them.

    Args:
        function: What was called.
        layer: Name of the layer.
        given: Its ``layer_kwargs``.
        more: Its further keywords.

    Raises:
        ValueError: If one is none of the layer's.
    """
    for name in ("return_report", "example_input"):
        if name in {**given, **more}:
            raise ValueError(
                f"{name} is an argument of dyvision.dynamize: give it the network that this function makes"
            )
    check_keywords(more, [function], layer)
    return {**given, **more}
