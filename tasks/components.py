"""Components by name, in arguments and YAML: ``"sgd"``, ``{"name": "sgd", ...}`` or ``{"class_path": ...}``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dyvision.moved import current_path
from dyvision.signatures import constructor_signature
from dyvision.text import question, similar_names

ComponentSpec = str | Mapping[str, Any]


@dataclass(frozen=True)
class Component:
    """A component argument, taken apart.

    Attributes:
        kind: ``"name"`` for one of ours, ``"type"`` for a registry of mmseg, ``"class_path"`` for anything importable.
        name: The name, the type or the dotted path.
        arguments: Keyword arguments given with it.
    """

    kind: Literal["name", "type", "class_path"]
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def parse_component(spec: ComponentSpec, argument: str, types: bool = True) -> Component:
    """Take a component argument apart.

    Args:
        spec: A name, or a dictionary with ``name``, ``type`` or ``class_path`` (and ``init_args``).
        argument: Name of the argument, for messages.
        types: Whether there is a registry of mmseg for it, in which a ``type`` is looked up.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(spec, str) and spec:
        return Component("name", spec)
    given = dict(spec) if isinstance(spec, Mapping) else {}
    kinds = [kind for kind in ("name", "type", "class_path") if kind in given]
    if kinds == ["type"] and not types:
        instead = {"name": given.pop("type"), **given}
        raise ValueError(
            f"{argument}={spec!r}: 'type' is for the heads of mmsegmentation, in segmentation; give {instead!r}"
        )
    if len(kinds) != 1 or not isinstance(given[kinds[0]], str):
        expected = "'name', 'type' and 'class_path'" if types else "'name' and 'class_path'"
        raise ValueError(f"{argument}={spec!r}: expected a name, or a dictionary with exactly one of {expected}")
    name = given.pop(kinds[0])
    if kinds == ["class_path"]:
        init_args = dict(given.pop("init_args", None) or {})
        if given:
            raise ValueError(f"{argument}: arguments of a class_path belong under 'init_args', not {sorted(given)}")
        return Component("class_path", name, init_args)
    return Component("name" if kinds == ["name"] else "type", name, given)


def closest(name: str, options: Collection[str]) -> str:
    """Close matches as the end of a message, or all options if nothing is close."""
    found = similar_names(name, options)
    if found:
        return question(found)
    return f"choose from {', '.join(sorted(options)) or 'nothing'}"


def choose(name: str, options: Collection[str], argument: str) -> str:
    """Return ``name`` if it is an option.

    Raises:
        ValueError: Otherwise, with the closest options.
    """
    if name not in options:
        raise ValueError(f"unknown {argument} {name!r}; {closest(name, options)}")
    return name


def import_object(class_path: str, argument: str, kind: type, builders: bool = False) -> Any:
    """Import the class that a dotted path names.

    Args:
        class_path: Given by the user, or named by a checkpoint and allowed by the user (:mod:`dyvision.trust`).
        argument: Name of the argument, for messages.
        kind: What the class has to be a subclass of: any other (``subprocess.Popen``) is not called.
        builders: Whether a function that builds one is allowed, too: of three arguments at least, by position.

    Raises:
        ValueError: If the module or the name in it does not exist, or it is not of that kind.
    """
    module_name, _, name = current_path(class_path).rpartition(".")
    try:
        module = importlib.import_module(module_name) if module_name else None
    # a module that is imported for the first time may fail in any way
    except Exception as error:
        raise ValueError(f"{argument}: cannot import {module_name!r} of class_path {class_path!r} ({error})") from error
    if module is None or not hasattr(module, name):
        where = f"; {closest(name, [key for key in vars(module) if key[0] != '_'])}" if module else ""
        raise ValueError(f"{argument}: class_path {class_path!r} does not exist{where}")
    found = getattr(module, name)
    if isinstance(found, type) and issubclass(found, kind):
        return found
    expected = f"a subclass of {kind.__module__.removesuffix('.module').removesuffix('.modules')}.{kind.__name__}"
    if builders:
        if inspect.isfunction(found) and takes_three(found):
            return found
        expected += ", or a function of a backbone, a number of classes and a config"
    what = "a class of another kind" if isinstance(found, type) else f"a {type(found).__name__}"
    raise ValueError(f"{argument}: class_path {class_path!r} is {what}; expected {expected}")


def takes_three(function: Callable[..., Any]) -> bool:
    """Whether something can be called with three arguments by position, and has names for them."""
    try:
        first = list(inspect.signature(function).parameters.values())[:3]
    except (TypeError, ValueError):  # it cannot be called, or is not written in Python
        return False
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len(first) == 3 and all(parameter.kind in by_position for parameter in first)


def accepted_arguments(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """Names of the keyword arguments a callable takes, those behind ``**kwargs`` of its base classes included.

    Returns:
        The names, and whether it accepts any other name too.
    """
    taken = constructor_signature(function) if inspect.isclass(function) else inspect.signature(function)
    parameters = taken.parameters.values()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], what: str) -> None:
    """Check that a callable takes the given keyword arguments.

    Raises:
        ValueError: If there is an unknown one, with the closest names.
    """
    names, anything = accepted_arguments(function)
    unknown = [] if anything else [name for name in arguments if name not in names]
    if unknown:
        raise ValueError(f"{what} has no argument {unknown[0]!r}; {closest(unknown[0], names)}")
