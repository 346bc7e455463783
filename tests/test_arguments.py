"""Checks of arguments: what is a number, what is in range, and what the line says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dyvision.arguments import check_flag, check_number, check_numbers, shown


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int64(1)])
def test_numbers_in_range_are_taken(value) -> None:
    check_number("share", value, minimum=0, maximum=1)


@pytest.mark.parametrize("value", ["0.5", True, None, [0.5], {}, math.nan, math.inf, -math.inf, -0.001, 1.001, 10**400])
def test_anything_else_is_refused(value) -> None:
    with pytest.raises(ValueError, match=r"^share=.*: expected a number in \[0, 1\]$"):
        check_number("share", value, minimum=0, maximum=1)


@pytest.mark.parametrize(
    ("limits", "value", "text"),
    [
        ({"minimum": 0}, -1, "a=-1: expected a number of at least 0"),
        ({"above": 0}, 0, "a=0: expected a number above 0"),
        ({"below": 1}, 1, "a=1: expected a number below 1"),
        ({"maximum": 1}, 2, "a=2: expected a number of at most 1"),
        ({"above": 0, "maximum": 1}, 0, "a=0: expected a number in (0, 1]"),
        ({"minimum": 0, "below": 1}, 1, "a=1: expected a number in [0, 1)"),
        ({"minimum": 1, "integer": True}, 1.0, "a=1.0: expected an integer of at least 1"),
        ({"minimum": 1, "allow_none": True}, 0, "a=0: expected a number of at least 1 or null"),
        ({"minimum": 0, "maximum": 2**32 - 1, "integer": True}, 2**32,
         "a=4294967296: expected an integer in [0, 4_294_967_295]"),
        ({}, math.nan, "a=nan: expected a number, finite"),
    ],
)  # fmt: skip
def test_the_line_tells_the_range(limits, value, text) -> None:
    with pytest.raises(ValueError) as error:
        check_number("a", value, **limits)
    assert str(error.value) == text


def test_lists() -> None:
    check_numbers("mean", [0.1, 0.2, 0.3], length=3)
    check_numbers("mean", (1, 2), integer=True)
    check_numbers("mean", None, allow_none=True)
    for wrong in ([0.1, 0.2], 0.1, "abc", None, [0.1, 0.2, math.nan], [0.1, 0.2, "c"], {0: 1}):
        with pytest.raises(ValueError, match=r"^mean=.*: expected 3 numbers"):
            check_numbers("mean", wrong, length=3)
    with pytest.raises(ValueError, match="expected a list of numbers"):
        check_numbers("mean", [])


def test_flags() -> None:
    check_flag("flip", True)
    for wrong in ("true", 1, None):
        with pytest.raises(ValueError, match="expected true or false"):
            check_flag("flip", wrong)


def test_what_is_shown_is_one_short_line() -> None:
    assert shown((1, 2)) == "[1, 2]"
    assert len(shown("x" * 1000)) == 60 and "\n" not in shown("a\nb" * 100)
