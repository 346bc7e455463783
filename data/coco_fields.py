"""Numbers, ids, flags and boxes as exporters write them, read as what they mean or refused.

Text that is a number counts as that number, null counts as absent, anything else is refused.
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

from dyvision.data.findings import Findings

NUMBERS = frozenset({int, float})
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST_ID = 2**63
# x, y, width, height; ways in which exporters name them
_BOX_KEYS = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_FIX = "correct or remove the entry"


class RefusedError(Exception):
    """A record cannot be used; the findings have it already."""


class Fields:
    """Reads fields of records and reports what it had to do.

    Args:
        path: The file, for messages.
        findings: Where to report.
    """

    def __init__(self, path: Path, findings: Findings) -> None:
        self.path, self.findings = path, findings

    def refuse(self, what: str, where: str, fix: str = _FIX) -> RefusedError:
        """Reports a refusal.

        Returns:
            What to raise when refusals are collected.

        Raises:
            DataError: Otherwise.
        """
        self.findings.refused_because(self.path, what, fix, where)
        return RefusedError()

    def wrong(self, value: Any, name: str, expected: str, where: str) -> RefusedError:
        """Reports a field that is not what it has to be; as :meth:`refuse`."""
        return self.refuse(f"{name!r} has to be {expected}", f"{where} with {name} {short(value)}")

    def identity(self, value: Any, name: str, where: str) -> int | str:
        """An id: a whole number, or the text as it is if it is none."""
        if type(value) is int and -_LARGEST_ID < value < _LARGEST_ID:
            return value
        if type(value) is float and value.is_integer() and abs(value) < 2**53:
            self.findings.repaired(self.path, f"{name!r} is a decimal number", "read as a whole number", where)
            return int(value)
        if isinstance(value, str) and value.strip():
            text = value.strip()
            if _WHOLE.fullmatch(text):
                self.findings.repaired(self.path, f"{name!r} is text", "read as a number", where)
                return int(text.split(".")[0])
            return value
        raise self.wrong(value, name, "a whole number", where)

    def number(self, value: Any, name: str, where: str, absent: str = "read as absent") -> float | None:
        """A number; None where it is null."""
        if type(value) in NUMBERS:
            return self._as_float(value, name, where)
        if value is None:
            self.findings.repaired(self.path, f"{name!r} is null", absent, where)
            return None
        if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
            self.findings.repaired(self.path, f"{name!r} is text", "read as a number", where)
            return self._as_float(value, name, where)
        raise self.wrong(value, name, "a number", where)

    def _as_float(self, value: Any, name: str, where: str) -> float:
        try:
            return float(value)
        except OverflowError:
            raise self.wrong(value, name, "in the range of numbers", where) from None

    def side(self, value: Any, name: str, where: str) -> int | None:
        """A number of pixels; None where it is null."""
        number = self.number(value, name, where, "read from the image")
        if number is None:
            return None
        if not 0 < number < 2**31 or number != int(number):
            raise self.wrong(value, name, "a positive whole number", where)
        return int(number)

    def crowd(self, value: Any, where: str) -> int:
        """``iscrowd``: 0 or 1; 0 where it is null."""
        if isinstance(value, bool):
            self.findings.repaired(self.path, "'iscrowd' is true or false", "read as 1 or 0", where)
            return int(value)
        number = self.number(value, "iscrowd", where, "read as 0")
        if number is None:
            return 0
        if number not in (0, 1):
            raise self.wrong(value, "iscrowd", "0 or 1", where)
        return int(number)

    def box(self, value: Any, where: str) -> list[float]:
        """Four numbers."""
        given, expected = value, "a list of four numbers [x, y, width, height]"
        if isinstance(value, dict):
            keys = next((keys for keys in _BOX_KEYS if set(keys) <= value.keys()), None)
            if keys is not None:
                self.findings.repaired(self.path, "'bbox' is an object", "read as [x, y, width, height]", where)
                value = [value[key] for key in keys]
        elif isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
            self.findings.repaired(self.path, "'bbox' is a list in a list", "read as [x, y, width, height]", where)
            value = value[0]
        if not isinstance(value, list) or len(value) != 4 or not all(_is_number(item) for item in value):
            raise self.wrong(given, "bbox", expected, where)
        return [float(self.number(item, "bbox", where) or 0.0) for item in value]


def _is_number(value: Any) -> bool:
    return type(value) in NUMBERS or (isinstance(value, str) and _DECIMAL.fullmatch(value.strip()) is not None)


def short(value: Any) -> str:
    """A value for a message, however long it is."""
    shown = reprlib.Repr()
    shown.maxlist = shown.maxdict = 6
    shown.maxstring = shown.maxother = 60
    shown.maxlevel = 3
    shown.maxlong = 40
    return " ".join(shown.repr(value).split())
