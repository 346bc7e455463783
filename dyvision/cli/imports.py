"""``--import`` and the ``import:`` of configs: modules and files of the user that register names."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyvision.cli.typed import TypedOptions
from dyvision.plugins import import_plugin

HELP = "module or file of your own that registers layers, heads, ... (may be given several times)"


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command that does not run the trainer."""
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE_OR_FILE", help=HELP)


def take_imports(layers: Iterable[tuple[Path, dict[str, Any]]], typed: TypedOptions) -> list[str]:
    """Import what configs and the command line name, and take it out of both.

    Args:
        layers: The configs that the user named, changed in place.
        typed: The command line, changed in place.

    Returns:
        What was imported, as it is found from any place: for the config of a run.

    Raises:
        ValueError: If there is no such module or file, or it fails.
    """
    found = [
        import_plugin(name, f"{path}: import:", path.parent)
        for path, content in layers
        for name in names_of(content, path)
    ]
    for _, content in layers:
        content.pop("import", None)
    found += [import_plugin(name or "") for name in typed.take("import")]
    return list(dict.fromkeys(found))


def import_all(names: Sequence[str]) -> None:
    """Import what was typed for a command that does not run the trainer.

    Raises:
        ValueError: If there is no such module or file, or it fails.
    """
    for name in names:
        import_plugin(name)


def names_of(content: Mapping[str, Any], path: Path) -> list[str]:
    """The modules and files of ``import:`` in one config.

    Raises:
        ValueError: If it is no name and no list of names.
    """
    given = content.get("import")
    names = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: import={given!r}: expected a module, a file, or a list of such")
    return names
