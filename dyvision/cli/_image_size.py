"""Height and width of images on a command line."""

from __future__ import annotations

import argparse

#: side of images whose size nothing says
SIDE = 224


def image_size(text: str, others: str = " or HEIGHTxWIDTH") -> tuple[int, int]:
    """Read ``N``, for squares, or ``HEIGHTxWIDTH``.

    Args:
        text: What was typed.
        others: What else than a positive integer is expected, for the message.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"a positive integer{others}, not {text!r}")
    return int(parts[0]), int(parts[-1])


def size_to_count(given: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    """Height and width of the images that costs are counted for, where no checkpoint has its own, and what says so."""
    if given is not None:
        return given, "--input-size"
    return (SIDE, SIDE), "the default; --input-size for others"
