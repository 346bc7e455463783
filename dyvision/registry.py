"""What can be named: layers, backbones, heads, data formats and transforms, dyvision's own and those of plug-ins."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

from dyvision.plugins import current_origin, load_installed
from dyvision.reading import parse_yaml, texts_in
from dyvision.text import printable, some

T = TypeVar("T")
Registered = TypeVar("Registered")
#: behind a name that nobody knows and that is close to none
OWN_NAMES = " (--import names the module that registers own ones)"
#: kind -> its registry, for those whose modules have been imported
_REGISTRIES: dict[str, Registry[Any]] = {}


@dataclass(frozen=True)
class Origin:
    """Where a name was registered.

    Attributes:
        module: Name of the module.
        file: Its file.
        line: The line of the registration.
        how: ``("package", "name 1.0")`` for a plug-in of an installed package, ``("import", TYPED)`` for a module that
            the user named, None for one that was imported otherwise.
    """

    module: str
    file: str
    line: int
    how: tuple[str, str] | None

    def __str__(self) -> str:
        return f"{self.module} ({self.file}:{self.line})"

    @property
    def source(self) -> str:
        """In a few words: the package, what was imported, or the module."""
        kind, text = self.how or ("", self.module)
        return f"--import {text}" if kind == "import" else text


class Registry(Generic[T]):
    """Names of one kind.

    Args:
        kind: What they name, such as ``"layer"``.
        entries: Where they are kept, with dyvision's own.
        arguments: Hyperparameters of tasks and data modules that take such names.
        reserved: Further names that are not free, and what they are: ``"timm's"`` for a network of timm.
    """

    def __init__(
        self,
        kind: str,
        entries: MutableMapping[str, T],
        arguments: tuple[str, ...] = (),
        reserved: Callable[[str], str | None] = lambda name: None,
    ) -> None:
        self.kind, self.entries, self.arguments, self.reserved = kind, entries, arguments, reserved
        self._origins: dict[str, Origin] = {}
        _REGISTRIES[kind] = self

    def decorator(
        self, name: str, prepare: Callable[[Any], T] = lambda given: given
    ) -> Callable[[Registered], Registered]:
        """What registers the class or the function below it under a name, and returns it as it is.

        Args:
            name: A word, of letters, digits, ``_`` and ``-``, that YAML takes for text.
            prepare: Checks what is registered, and makes the entry of it.

        Raises:
            ValueError: If it is no such word, or taken; the message has both places.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w-]*", name) or parse_yaml(name, name) != name:
            raise ValueError(f"{self.kind} {name!r}: a name is a word of letters, digits, _ and -, as YAML reads text")

        def register(given: Registered) -> Registered:
            origin = _place(inspect.currentframe())
            before = self._origins.get(name) if name in self.entries else None
            again = before is not None and (before.file, before.line) == (origin.file, origin.line)  # reloaded
            taken = self.reserved(name)
            if name in self.entries and not again:
                taken = f"at {before}" if before is not None else "by dyvision"
            if taken is not None:
                raise ValueError(f"{self.kind} {name!r} is registered already, {taken}; {origin} needs another name")
            self.entries[name] = prepare(given)
            self._origins[name] = origin
            return given

        return register

    def find(self, name: str) -> T | None:
        """What has a name; plug-ins of installed packages are asked if nothing known has it."""
        if name not in self.entries:
            load_installed()
        return self.entries.get(name)

    def names(self) -> list[str]:
        """All names, sorted, those of the plug-ins of installed packages among them."""
        load_installed()
        return sorted(self.entries)

    def foreign(self) -> dict[str, Origin]:
        """The names that are not dyvision's own, and where they come from."""
        return {
            name: origin
            for name, origin in sorted(self._origins.items())
            if name in self.entries and origin.module.partition(".")[0] != "dyvision"
        }


def foreign_names(kind: str) -> dict[str, Origin]:
    """The names of a kind that are not dyvision's own, those of the plug-ins of installed packages among them."""
    load_installed()
    found = _REGISTRIES.get(kind)
    return {} if found is None else found.foreign()


def record_plugins(hyperparameters: Mapping[str, Any], data_module: object = None) -> list[dict[str, str]]:
    """What a checkpoint keeps of the plug-ins that its hyperparameters name: information, which imports nothing.

    Args:
        hyperparameters: Of a task and of its data module.
        data_module: The data module itself: its class may be a registered format.
    """
    records = []
    for registry in _REGISTRIES.values():
        for name, origin in registry.foreign().items():
            named = any(name in texts_in(hyperparameters.get(argument)) for argument in registry.arguments)
            if named or (data_module is not None and registry.entries[name] is type(data_module)):
                how, text = origin.how or ("module", origin.module)
                records.append({"kind": registry.kind, "name": name, "module": origin.module, how: text})
    return records


def check_plugins(recorded: Any, used: Mapping[str, Any], where: str) -> None:
    """Check that everything that a checkpoint names, and a plug-in registered when it was made, is registered.

    Args:
        recorded: What :func:`record_plugins` had made, as the checkpoint has it; from a stranger.
        used: The hyperparameters of it that are used.
        where: The checkpoint, for messages.

    Raises:
        ValueError: If a name is missing, with the module that had it.
    """
    missing = []
    for record in records_of(recorded):
        registry = _REGISTRIES.get(record["kind"])
        arguments = () if registry is None else registry.arguments
        named = any(record["name"] in texts_in(used.get(argument)) for argument in arguments)
        if registry is not None and named and registry.find(record["name"]) is None:
            missing.append(record)
    if missing:
        raise missing_plugin(missing, where)


def records_of(recorded: Any) -> list[dict[str, str]]:
    """The records of a checkpoint that can be ones: it may hold anything."""
    given = recorded if isinstance(recorded, list) else []
    return [
        one
        for one in given
        if isinstance(one, dict)
        and {"kind", "name", "module"} <= set(one)
        and all(isinstance(text, str) and len(text) < 1000 for text in one.values())
    ]


def missing_plugin(records: list[dict[str, str]], where: str) -> ValueError:
    """The error for names of a checkpoint that nothing here registers, with the way out."""
    names = some(dict.fromkeys(f"the {one['kind']} {one['name']!r}" for one in records), 4)
    modules = dict.fromkeys(one.get("import", one["module"]) for one in records)
    packages = dict.fromkeys(one["package"] for one in records if "package" in one)
    install = f"install {some(packages)}, or " if packages else ""
    give = " ".join(f"--import {module}" for module in modules)
    return ValueError(
        printable(
            f"{where}: names {names}, which nothing here registers; a checkpoint imports no code: {install}give {give} "
            f"(in Python: import {', '.join(dict.fromkeys(one['module'] for one in records))}) if you know where it "
            "comes from"
        )
    )


def _place(frame: FrameType | None) -> Origin:
    """The line of the module that registers: the first caller outside of this file."""
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    if frame is None:  # an interpreter without frames
        return Origin("?", "?", 0, current_origin())
    return Origin(str(frame.f_globals.get("__name__")), frame.f_code.co_filename, frame.f_lineno, current_origin())
