"""The packages of the extras ``export`` and ``openvino``, asked for where they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(*names: str, extra: str = "export") -> tuple[Any, ...]:
    """Import packages.

    Args:
        *names: Of the packages.
        extra: The extra of dyvision that brings them.

    Raises:
        ValueError: If one is missing; the message is one line that says how to install it.
    """
    try:
        return tuple(import_module(name) for name in names)
    except ImportError as error:
        raise ValueError(f'export needs {error.name or names}: pip install "dyvision[{extra}]" ({error})') from error
