"""What the modules in ``methods/`` offer, each of which knows one method's official code; and what they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, cast

from torch import Tensor, nn

from dyvision.text import did_you_mean

#: stands for the default of an argument that has none
REQUIRED: Any = object()


class Method(Protocol):
    """What such a module offers; some also have ``apply_auxiliary(layer, auxiliary)``."""

    def build_layer(self, official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
        """Build our layer for an official class and the arguments of its constructor."""

    def layer_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate the state dict of one official layer."""


def list_methods() -> list[str]:
    """Names of the methods whose official layers can be translated, sorted."""
    package = import_module("dyvision.checkpoints.methods")
    return sorted(module.name for module in iter_modules(package.__path__))


def get_method(name: str) -> Method:
    """Return the module of a method.

    Raises:
        ValueError: If there is none; the message gives the closest names.
    """
    known = list_methods()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"unknown method {name!r}{hint}; methods are {', '.join(known)}")
    return cast(Method, import_module(f"dyvision.checkpoints.methods.{name}"))


def check_class(official_class: str, *known: str) -> None:
    """Check that an official class is one of those that a method's module knows.

    Raises:
        ValueError: If it is another one.
    """
    if official_class not in known:
        *first, last = known
        listed = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(f"official_class must be {listed}, got {official_class!r}")


def bind_arguments(
    official_class: str,
    arguments: Mapping[str, Any],
    defaults: Mapping[str, Any],
    refused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Complete the arguments of an official constructor, as calling it would.

    Args:
        official_class: Name of the class, for messages.
        arguments: What was given.
        defaults: Every argument of the constructor with its default, or :data:`REQUIRED`.
        refused: Arguments that the constructor takes and we do not, with the reason.

    Returns:
        A value for every argument.

    Raises:
        ValueError: If an argument is unknown, refused or missing.
    """
    check_arguments(official_class, arguments, defaults, refused)
    missing = [name for name, default in defaults.items() if default is REQUIRED and name not in arguments]
    if missing:
        raise ValueError(f"{official_class} needs the argument {', '.join(map(repr, missing))}")
    return {**defaults, **arguments}


def check_arguments(
    official_class: str, arguments: Mapping[str, Any], known: Iterable[str], refused: Mapping[str, str] | None = None
) -> None:
    """Check that every argument is one of the official constructor's: what is not understood must not be dropped.

    Raises:
        ValueError: If one is unknown; the message gives the closest names. Also if it is among the refused ones.
    """
    names = sorted(known)
    for name in arguments:
        if refused and name in refused:
            raise ValueError(f"{official_class}: {name} is not supported: {refused[name]}")
        if name not in names:
            hint = did_you_mean(name, names)
            raise ValueError(f"{official_class} has no argument {name!r}{hint}; it has {', '.join(names)}")


def attention_as_branch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one layer's state dict: ``attention`` is ``branch``, its 1x1 convolutions are linear layers."""
    ours = {}
    for name, tensor in state.items():
        if name.startswith("attention."):
            name = f"branch.{name.removeprefix('attention.')}"
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        ours[name] = tensor
    return ours


def widen(tensor: Tensor) -> Tensor:
    """Zeros where an official branch has no width at all, as few channels give it: ours has one at least."""
    return tensor if tensor.numel() else tensor.new_zeros([max(size, 1) for size in tensor.shape])


def fit(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give a tensor a shape that differs from its own in axes of size one, or that unfolds its last axis.

    Args:
        tensor: ``[O, I, 1, 1]`` for a linear layer's ``[O, I]``, timm's ``[K, O * I * kH * kW]``.
        shape: The shape wanted.

    Returns:
        A view, or the tensor itself where its shape is another one: whoever compares shapes will see it.
    """
    own = tuple(tensor.shape)
    singletons = [size for size in own if size != 1] == [size for size in shape if size != 1]
    unfolds = tensor.ndim == 2 < len(shape) and own[0] == shape[0] and tensor.numel() == _product(shape)
    return tensor.reshape(shape) if singletons or unfolds else tensor


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
