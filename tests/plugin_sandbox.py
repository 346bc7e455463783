"""What plug-ins of a test register is forgotten after it: registries are of the process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dyvision import plugins, registry

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"


@contextmanager
def plugin_sandbox() -> Iterator[None]:
    """Registries, Python's path, modules and what is known of installed plug-ins are afterwards what they were."""
    kept = {kind: (found, dict(found.entries), dict(found._origins)) for kind, found in registry._REGISTRIES.items()}
    path, modules, looked = list(sys.path), set(sys.modules), plugins._looked
    try:
        yield
    finally:
        for found in registry._REGISTRIES.values():
            _, entries, origins = kept.get(found.kind, (found, None, None))
            foreign = set(found.foreign()) if entries is None else set(found.entries) - set(entries)
            for name in foreign:
                found.entries.pop(name, None)
                found._origins.pop(name, None)
            if entries is not None:
                found.entries.update(entries)
                found._origins.update(origins)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            file = str(getattr(sys.modules[name], "__file__", None) or sys.prefix)
            # modules of libraries stay: what they registered elsewhere would be registered twice
            kept_ones = ("site-packages", sys.prefix, sys.base_prefix, str(ROOT))
            if not any(part in file for part in kept_ones) or str(EXAMPLES) in file:
                del sys.modules[name]
        plugins._looked = looked
