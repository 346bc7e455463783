"""Configs and typed options laid over each other, as the parser of a task does, without a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dyvision.cli.configs import SECTIONS
from dyvision.cli.typed import TypedOptions, typed_value


def merge(layers: Iterable[tuple[Path, Mapping[str, Any]]], typed: TypedOptions) -> dict[str, Any]:
    """What configs and typed options say together.

    Args:
        layers: ``(file, content)``, in the order in which they apply.
        typed: What was typed, which wins.

    Returns:
        Nested options. Defaults are not among them.

    Raises:
        ValueError: If a typed value is nested without end, or belongs to an option that has none below it.
    """
    merged: dict[str, Any] = {}
    for _, content in layers:
        _lay_over(merged, content)
    for name, text in typed:
        _set(merged, name, None if text is None else typed_value(text, name))
    return merged


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for name, value in above.items():
        if name == "import":  # every config adds to it
            before, value = below.get(name) or [], value or []
            below[name] = [*before, *(value if isinstance(value, list) else [value])]
        elif isinstance(name, str) and "." in name:  # as it is typed
            _set(below, name, value)
        elif name in SECTIONS and isinstance(value, Mapping):
            section = below[name] = dict(below[name]) if isinstance(below.get(name), dict) else {}
            _lay_section(section, value)
        else:
            below[name] = value


def _lay_section(section: dict[str, Any], above: Mapping[str, Any]) -> None:
    """One section: options replace each other, but for lists that are added to and the arguments of one class."""
    other_class = "class_path" in above and above["class_path"] != section.get("class_path")
    for name, value in above.items():
        if str(name).endswith("+"):
            _append(section, name, value)
        elif name == "init_args" and isinstance(value, Mapping) and not other_class:
            section[name] = {**(section.get(name) or {}), **value}
        else:
            section[name] = value
            section.pop(f"{name}+", None)
    if other_class and "init_args" not in above:
        section.pop("init_args", None)


def _append(section: dict[str, Any], name: str, value: Any) -> None:
    """``callbacks+`` adds to ``callbacks``, or to what is to be added to the default."""
    plain = name[:-1]
    key = plain if plain in section else name
    before = section.get(key)
    before = before if isinstance(before, list) else [] if before is None else [before]
    section[key] = [*before, *(value if isinstance(value, list) else [value])]


def _set(merged: dict[str, Any], name: str, value: Any) -> None:
    section, *parts = name.split(".")
    if not parts:
        _lay_over(merged, {section: value})
        return
    content = merged[section] = {} if merged.get(section) is None else merged[section]
    if not isinstance(content, dict):
        raise ValueError(f"--{name}: {section} is {content!r} and has no options below it; give --{section}=VALUE")
    if len(parts) == 1:
        _lay_section(content, {parts[0]: value})
        return
    for part in parts[:-1]:
        inner = content.get(part)
        if isinstance(inner, list) and inner:  # an argument of the last of several objects
            last = _object(inner[-1])
            content[part], content = [*inner[:-1], last], last
        elif section == "trainer" and isinstance(inner, (str, dict)):
            content[part] = content = _object(inner)
        else:
            content[part] = dict(inner) if isinstance(inner, dict) else {}
            content = content[part]
        if "class_path" in content and parts[-1] not in ("class_path", "init_args"):
            content["init_args"] = content = dict(content.get("init_args") or {})
    content[parts[-1]] = value


def _object(given: Any) -> dict[str, Any]:
    """A class by its name, or with its arguments, as a mapping with arguments."""
    made = dict(given) if isinstance(given, dict) else {"class_path": given}
    return {**made, "init_args": dict(made.get("init_args") or {})}
