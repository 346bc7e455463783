"""Constructor arguments: those of ``nn.Conv2d``, which every layer takes, and the checks of all where they enter.

An error names the argument, its value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypedDict

import torch
from torch import nn

from dyvision.ops.geometry import Padding, Size
from dyvision.signatures import constructor_signature
from dyvision.text import did_you_mean

#: of float32, the type of the buffers that keep temperatures
_SMALLEST, _LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


class Conv2dArguments(TypedDict, total=False):
    """What an editor and a type checker see of a layer's ``**kwargs``: ``nn.Conv2d``'s arguments behind the sizes.

    At run time, and for texts and defaults, the constructor of ``DynamicConv2d`` is asked, which has the same ones in
    this order.
    """

    stride: Size
    padding: Padding
    dilation: Size
    groups: int
    bias: bool
    padding_mode: str
    device: torch.device | str | None
    dtype: torch.dtype | None


def factory_kwargs(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """``device`` and ``dtype`` for the parameters of a layer.

    Args:
        args: Of the layer, behind the channels and the size of the kernel.
        kwargs: Of the layer.
    """
    given = {**dict(zip(Conv2dArguments.__annotations__, args, strict=False)), **kwargs}
    return {name: given.get(name) for name in ("device", "dtype")}


class DoesNotFitError(ValueError):
    """An argument that is right in itself, but not for the channels or the kernel of this layer.

    Attributes:
        argument: Its name.
        fits: The largest value that fits; None if none does.
    """

    def __init__(self, message: str, argument: str, fits: Any = None) -> None:
        super().__init__(message)
        self.argument, self.fits = argument, fits


class UnknownArgumentError(TypeError, ValueError):
    """An argument that a layer does not have: a TypeError, as of any call, and bad input where it comes from a file."""


def check_positive(name: str, value: int) -> None:
    """Check that an argument is a positive int.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive int, got {value!r}")


def largest_divisor(limit: int, *numbers: int) -> int:
    """The largest number up to ``limit`` that divides all numbers.

    Example:
        >>> largest_divisor(4, 58), largest_divisor(4, 12, 30)
        (2, 3)
    """
    common = math.gcd(*numbers)
    return next(divisor for divisor in range(min(limit, common), 0, -1) if common % divisor == 0)


def check_between(name: str, value: float, largest: float, allowed: str | None = None) -> None:
    """Check that an argument is a finite number above 0 and not above ``largest``.

    Args:
        name: Of the argument.
        value: Of the argument.
        largest: The largest allowed value, or infinity.
        allowed: What the message says is allowed.

    Raises:
        ValueError: If it is not, or no number at all.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= largest or math.isinf(value):
        allowed = allowed or ("positive" if math.isinf(largest) else f"in (0, {largest:g}]")
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Check that an argument is a number in [0, 1].

    Raises:
        ValueError: If it is not.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")


def check_temperature(value: float) -> None:
    """Check a temperature: positive, and neither zero nor infinite in float32, in which it is kept.

    Raises:
        ValueError: If it is not.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not _SMALLEST <= value <= _LARGEST:
        raise ValueError(
            f"temperature must be positive, got {value!r}; float32, which keeps it, goes from {_SMALLEST:.3g} to "
            f"{_LARGEST:.3g}"
        )


def check_dtype(dtype: torch.dtype | None) -> None:
    """Check the type of a layer's parameters.

    Raises:
        ValueError: If it is not floating point.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating-point type such as torch.float32, got {dtype!r}")


def abstract_methods(layer_class: type[nn.Module]) -> list[str]:
    """Names of the methods that a class leaves to its subclasses, sorted."""
    declared = {name for kind in layer_class.__mro__ for name, value in vars(kind).items() if _is_abstract(value)}
    return sorted(name for name in declared if _is_abstract(getattr(layer_class, name)))


def _is_abstract(value: object) -> bool:
    return bool(getattr(value, "__isabstractmethod__", False))


def own_arguments(layer_class: type[nn.Module], base: type[nn.Module]) -> list[str]:
    """Names of the arguments that a layer adds to those of its base, the class's own first."""
    general = constructor_signature(base).parameters
    parameters = constructor_signature(layer_class).parameters.values()
    return [p.name for p in parameters if p.name not in general and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def check_own_arguments(layer_class: type[nn.Module], base: type[nn.Module], names: Iterable[str]) -> None:
    """Check that arguments are a layer's own, and not those of ``nn.Conv2d`` or none at all.

    Raises:
        TypeError: If they are not; see :func:`reject_unknown`.
    """
    own = own_arguments(layer_class, base)
    unknown = [name for name in names if name not in own]
    if unknown:
        reject_unknown(layer_class, base, unknown, settable=False)


def reject_unknown(
    layer_class: type[nn.Module], base: type[nn.Module], unknown: Iterable[str], settable: bool = True
) -> NoReturn:
    """Report arguments that a layer does not have.

    Args:
        layer_class: The layer's class.
        base: The class whose arguments are those of ``nn.Conv2d``.
        unknown: Names of the arguments.
        settable: Whether the arguments of ``nn.Conv2d`` could have been given as well.

    Raises:
        UnknownArgumentError: Always; it lists the layer's own arguments and the closest ones.
    """
    own, wrong = own_arguments(layer_class, base), list(unknown)
    taken = ", ".join(own) if own else "none"
    general = list(constructor_signature(base).parameters)
    hints = []
    for name in wrong:
        if name in general:  # from_conv takes it from the convolution
            hints.append(f"{name!r} of its own: the convolution's is taken")
            continue
        hints.append(f"{name!r}{did_you_mean(name, [*own, *general] if settable else own, 1)}")
    raise UnknownArgumentError(
        f"{layer_class.__name__} has no argument {', '.join(hints)}; its own, beside those of nn.Conv2d, are: {taken}"
    )
