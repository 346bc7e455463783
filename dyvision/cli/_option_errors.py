"""What jsonargparse says about a wrong option, told in one line: which option, what was given, what is expected."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from dyvision.arguments import shown
from dyvision.cli.configs import closest, shown_name
from dyvision.cli.request import Request
from dyvision.signatures import constructor_types

_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
    dict: "a mapping",
    list: "a list",
}
_NOT_GIVEN = object()
#: what the trainer's options that take objects expect, in place of the classes of their annotations
_FORMS = {
    "trainer.logger": "true, false, CSVLogger, TensorBoardLogger, WandbLogger or a class path, such as "
    "{class_path: CSVLogger, init_args: {...}}",
    "trainer.callbacks": "a list of class paths, such as [{class_path: EarlyStopping, init_args: {...}}]",
    "trainer.plugins": "a list of class paths, such as [{class_path: TorchSyncBatchNorm}]",
}


def explain(text: str, request: Request, classes: Mapping[str, type]) -> str:
    """Tell a parser's error in one line.

    Args:
        text: What the parser said.
        request: The command line, to say where a value comes from.
        classes: Section (``"model"``, ``"trainer"``, ...) -> the class whose constructor's arguments its options are.

    Returns:
        The line.
    """
    flat = " ".join(text.split())
    required = re.match(r"the following arguments are required: ([\w.]+)|Option ['\"]?([\w.]+)['\"]? is required", flat)
    if required:
        name = required[1] or required[2]
        return f"--{name} is missing{_hint(name)}"
    keys = re.findall(r"Parser key \"([^\"]+)\":", flat)
    if not keys:
        return _usage(flat)
    key = keys[-1]
    hint = _hint_of(key, classes)
    inner = re.search(r"given class_path '([^']+)': (.+?)(?: - (?:Expected|Not a valid)| Given value|$)", flat)
    value = _given_value(text)
    where = source(key, value, request)
    if inner and not (key in _FORMS and value and inner[1].rpartition(".")[2] not in value):
        return f"{where}: {_class_problem(inner[1], inner[2], classes.get(key))}"
    stranger = re.search(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)", flat)
    if stranger:
        return f"{where}: {stranger[1]} is not a {'plugin' if key == 'trainer.plugins' else stranger[2]}"
    named = re.search(r"Expected a dot import path string: ([\w.]+)", flat)
    if named:
        return f"{where}: there is no {_kind(key)} {named[1]!r}{closest(named[1], _class_names(key))}{_known(key)}"
    expected = _FORMS.get(key) or (describe(hint) if hint is not None else _expected(flat))
    choices = [str(choice) for choice in choices_of(hint)]
    similar = closest(value, choices) if choices and value else ""
    return f"{where}{f'={shown(_unquoted(value))}' if value is not None else ''}: expected {expected}{similar}"


def _given_value(text: str) -> str | None:
    """The value that a parser's error ends with; one of several types is told once for each of them before that."""
    given = re.search(r"(?s:.*)^\s*Given value: ((?s:.*))", text, re.MULTILINE)
    given = given or re.search(r"Got value: ((?s:.*?))(?:\s*Subclass types expect(?s:.*))?\Z", text)
    return " ".join(given[1].split()) if given else None


def describe(hint: Any) -> str:
    """A type in words, such as ``"a list of 2 integers"`` or ``"a number or null"``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return "any value"
    if origin in (Union, types.UnionType):
        literals = [str(value) for value in choices_of(hint)]
        words = [f"one of {', '.join(dict.fromkeys(literals))}"] if literals else []
        words += [describe(one) for one in arguments if get_origin(one) is not Literal]
        return " or ".join(sorted(dict.fromkeys(words), key=lambda word: word == "null"))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple and arguments and Ellipsis not in arguments:
        return f"a list of {len(arguments)} {_plural(arguments[0])}"
    if origin in (list, tuple) or getattr(origin, "__name__", "") in ("Iterable", "Sequence"):
        return f"a list of {_plural(arguments[0])}" if arguments else "a list"
    if origin is dict:
        kinds = {int: "number", str: "name", bool: "true or false"}
        key, value = (kinds.get(part, "value") for part in (arguments or (str, None)))
        return f"a mapping {{{key}: {value}}}"
    return _NAMES.get(hint) or f"a {getattr(hint, '__name__', str(hint))}"


def _plural(hint: Any) -> str:
    plurals = {int: "integers", float: "numbers", str: "texts", Any: "values"}
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_plural(one) for one in get_args(hint))
    if get_origin(hint) is dict:
        return "mappings"
    return plurals.get(hint) or f"items, each {describe(hint)}"


def _hint_of(key: str, classes: Mapping[str, type]) -> Any:
    section, _, name = key.partition(".")
    if not name:
        return str | None if key in ("task", "ckpt_path", "output", "sample_data") else None
    try:
        return constructor_types(classes[section]).get(name)
    except (KeyError, NameError, TypeError):  # a class of the user whose annotations cannot be evaluated here
        return None


def choices_of(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return [choice for one in get_args(hint) for choice in choices_of(one)]
    return []


def _expected(flat: str) -> str:
    found = re.search(r"Expected an? (?:<class '([\w.]+)'>|([^.]+?))(?:\.| Got|$| - )", flat)
    if found is None:
        return f"something else ({flat[:160]})"
    names = {kind.__name__: word for kind, word in _NAMES.items()}
    return names.get(found[1] or "", found[1] or found[2])


def source(key: str, value: str | None, request: Request) -> str:
    """Where a value was given: ``--model.lr`` on the command line, ``my.yaml: model.lr`` in a file."""
    parents = [key.rsplit(".", depth)[0] for depth in range(key.count(".") + 1)]
    typed = [request.typed.get(name) for name in parents]
    places = [(f"--{key}", text) for text in typed if text is not None]
    for path, content in reversed(request.layers):
        inner: Any = content
        for part in key.split("."):
            inner = inner.get(part, _NOT_GIVEN) if isinstance(inner, Mapping) else _NOT_GIVEN
        if inner is not _NOT_GIVEN:
            places.append((f"{shown_name(path)}: {key}", str(inner)))
    exact = [place for place, text in places if text == value]
    return (exact or [place for place, _ in places] or [f"--{key}"])[0]


def _kind(key: str) -> str:
    return {"trainer.logger": "logger", "trainer.callbacks": "callback", "trainer.plugins": "plugin"}.get(
        key, key.rsplit(".", 1)[-1]
    )


def _class_names(key: str) -> list[str]:
    from lightning.pytorch import callbacks, loggers, plugins

    modules = {"trainer.logger": loggers, "trainer.callbacks": callbacks, "trainer.plugins": plugins}
    return list(modules[key].__all__) if key in modules else []


def _known(key: str) -> str:
    return f"; give {_FORMS.get(key, 'a class path')}"


def _class_problem(class_path: str, problem: str, base: type | None) -> str:
    name = class_path.rsplit(".", 1)[-1]
    option_name = re.match(r"Option '([^']+)' is not accepted", problem)
    if base is not None and class_path.endswith(base.__name__):
        return "a class path was expected here (or leave it out: the task chooses it), and the options below it"
    if option_name:
        return f"{name} has no argument {option_name[1]!r}{_closest_argument(class_path, option_name[1])}"
    return f"{class_path}: {problem.rstrip('.')}"


def _closest_argument(class_path: str, name: str) -> str:
    import importlib
    import inspect

    module, _, last = class_path.rpartition(".")
    # the parser has imported it already
    cls = getattr(importlib.import_module(module), last, None) if module else None
    return closest(name, list(inspect.signature(cls).parameters)) if cls is not None else ""


def _usage(flat: str) -> str:
    nothing = re.match(r"argument (--[\w.]+).*: expected (?:one|at least one) argument", flat)
    if nothing:
        return f"{nothing[1]}: a value is missing; write {nothing[1]}=VALUE"
    return flat


def _hint(key: str) -> str:
    return {"data.root": ": the folder of the data set; give --data.root=FOLDER"}.get(key, f"; give --{key}=VALUE")


def _unquoted(value: str | None) -> Any:
    number = re.fullmatch(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", value or "")
    if number or (value or "")[:1] in "[{" or value in ("True", "False", "nan", "inf", "-inf"):
        return _Bare(value or "")
    return value


class _Bare(str):
    """Text that is shown without quotes: a number, a list."""

    def __repr__(self) -> str:
        return str(self)
