"""Checks of arguments where they enter: numbers that are numbers and in range, lists of the right length."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    integer: bool = False,
    allow_none: bool = False,
) -> None:
    """Check one number: finite, no text, no truth value, and in its range.

    Args:
        name: Name of the argument, for the message.
        value: What was given.
        minimum: Smallest value allowed.
        maximum: Largest value allowed.
        above: The value must be larger than this.
        below: The value must be smaller than this.
        integer: Whole numbers only (``3``, not ``3.0``).
        allow_none: Whether None is fine, too.

    Raises:
        ValueError: If not; the message says what is expected.
    """
    if value is None and allow_none:
        return
    if _is_number(value, integer) and _is_within(value, minimum, maximum, above, below):
        return
    expected = _range("an integer" if integer else "a number", minimum, maximum, above, below)
    raise ValueError(f"{name}={shown(value)}: expected {expected}{' or null' if allow_none else ''}")


def check_numbers(
    name: str,
    values: Any,
    *,
    length: int | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    integer: bool = False,
    allow_none: bool = False,
) -> None:
    """Check a list of numbers, each as in :func:`check_number`.

    Args:
        name: Name of the argument, for the message.
        values: What was given.
        length: How many there have to be; at least one if None.
        minimum: Smallest value allowed.
        maximum: Largest value allowed.
        above: Each value must be larger than this.
        below: Each value must be smaller than this.
        integer: Whole numbers only.
        allow_none: Whether None instead of the list is fine, too.

    Raises:
        ValueError: If not; the message says what is expected.
    """
    if values is None and allow_none:
        return
    is_list = isinstance(values, Sequence) and not isinstance(values, (str, bytes))
    if is_list and (len(values) == length if length is not None else len(values) > 0):
        if all(_is_number(v, integer) and _is_within(v, minimum, maximum, above, below) for v in values):
            return
    kind = f"{length if length is not None else 'a list of'} {'integers' if integer else 'numbers'}"
    raise ValueError(f"{name}={shown(values)}: expected {_range(kind, minimum, maximum, above, below)}")


def check_flag(name: str, value: Any) -> None:
    """Check a truth value.

    Raises:
        ValueError: If it is none (text such as ``"yes"`` would count as true).
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={shown(value)}: expected true or false")


def shown(value: Any, limit: int = 60) -> str:
    """A value as it may stand in a message: one line, and not a long one."""
    try:
        text = " ".join(repr(list(value) if isinstance(value, tuple) else value).split())
    except ValueError:  # Python does not print an integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _is_number(value: Any, integer: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if integer else numbers.Real):
        return False
    try:
        return integer or math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _is_within(
    value: Any, minimum: float | None, maximum: float | None, above: float | None, below: float | None
) -> bool:
    return (
        (minimum is None or value >= minimum)
        and (maximum is None or value <= maximum)
        and (above is None or value > above)
        and (below is None or value < below)
    )


def _range(kind: str, minimum: float | None, maximum: float | None, above: float | None, below: float | None) -> str:
    lower, upper = minimum if minimum is not None else above, maximum if maximum is not None else below
    if lower is not None and upper is not None:
        opening, closing = "[" if minimum is not None else "(", "]" if maximum is not None else ")"
        return f"{kind} in {opening}{_written(lower)}, {_written(upper)}{closing}"
    if lower is not None:
        return f"{kind} {'of at least' if minimum is not None else 'above'} {_written(lower)}"
    if upper is not None:
        return f"{kind} {'of at most' if maximum is not None else 'below'} {_written(upper)}"
    return f"{kind}{', finite' if 'integer' not in kind else ''}"


def _written(limit: float) -> str:
    return f"{limit:,}".replace(",", "_") if isinstance(limit, int) and abs(limit) >= 10_000 else f"{limit:g}"
