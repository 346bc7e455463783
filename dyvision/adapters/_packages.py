"""The frameworks of the adapters, asked for where they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(name: str, extra: str) -> Any:
    """Import a framework.

    Args:
        name: Module to import.
        extra: The extra of dyvision that installs it.

    Raises:
        ImportError: If it is missing; the message is one line that says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f'this adapter needs {package}: pip install "dyvision[{extra}]" ({error})') from error
