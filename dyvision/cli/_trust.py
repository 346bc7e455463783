"""Which names of a checkpoint the user has named again: ``--trust``, a config, or the same option typed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from dyvision.cli.typed import TypedOptions, typed_value
from dyvision.trust import code_in


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust`` to a command that does not run the trainer; it is a list of names."""
    parser.add_argument(
        "--trust", type=_names, default=[], metavar="NAMES", help="classes a checkpoint may name, as NAME,NAME"
    )


def trainer_arguments(trust: Iterable[str]) -> list[str]:
    """The same names as an argument of a command that runs the trainer."""
    return [f"--trust={','.join(trust)}"] if trust else []


def trusted_names(typed: TypedOptions, configs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of classes and networks that a checkpoint may use.

    Args:
        typed: The command line.
        configs: Contents of the config files: what the user's own files name, the user has named.

    Raises:
        ValueError: If a typed value is nested without end.
    """
    names: set[str] = set()
    for content in configs:
        names |= _listed(content.get("trust"))
        for section in ("model", "data"):
            values = content.get(section)
            if isinstance(values, Mapping):
                names |= {code for name, value in values.items() for code in code_in(str(name), value)}
    for option, text in typed:
        value = text or ""
        section, _, name = option.partition(".")
        if option == "trust":
            names |= _listed(value)
        elif option.endswith(".class_path"):
            names.add(value)
        elif section in ("model", "data") and name:
            names |= set(code_in(name.removesuffix("+"), typed_value(value, option)))
    return names


def check_typed(typed: TypedOptions) -> None:
    """Check that typed values end: nested lists and aliases of YAML, before the parser of options reads them.

    Raises:
        ValueError: If one is nested too deeply or stands for too many values.
    """
    for option, value in typed:
        if value is not None and any(sign in value for sign in "[{&*"):
            typed_value(value, option)


def _listed(value: Any) -> set[str]:
    return set(_names(value) if isinstance(value, str) else filter(None, (str(name).strip() for name in value or ())))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
