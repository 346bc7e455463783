"""Packages whose names are imported on first use, so that asking for one does not load what the others need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, origins: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: Its ``__name__``.
        origins: Module of each name, below the package, or in full if it begins with ``dyvision.``.
        modules: Modules below the package that are names, too.
    """

    def load(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name in origins:
            origin = origins[name]
            module = origin if origin.startswith("dyvision.") else f"{package}.{origin}"
            return getattr(import_module(module), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *origins, *modules})

    return load, names
