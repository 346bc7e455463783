"""Every error in the options of a run at once: each that is found is set aside, and the rest is looked at again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace

from dyvision.arguments import check_number
from dyvision.cli._loggers import take_loggers
from dyvision.cli._merged import merge
from dyvision.cli._option_errors import explain, source
from dyvision.cli._trainer_options import check_checkpoint, check_trainer
from dyvision.cli.configs import find_config, load_layers, option_groups
from dyvision.cli.imports import take_imports
from dyvision.cli.request import Request
from dyvision.cli.task_parser import TaskOptions, TaskParser
from dyvision.cli.task_table import TASKS, check_task
from dyvision.cli.unknown_options import unknown_options
from dyvision.tasks.callbacks import LastCheckpoint, PredictionWriter
from dyvision.text import one_line

Options = dict[str, Any]
#: of numpy's generators, which Lightning seeds, too
_LARGEST_SEED = 2**32 - 1


def check_config(name: str, task: str | None = None) -> list[str]:
    """Find what is wrong in a config and its bases. Nothing is built and no data is read.

    Args:
        name: A file or a packaged config.
        task: The task of a config that names none; by default one that has all its options.

    Returns:
        One line for each error.
    """
    if task is not None:
        check_task(task)
    try:
        layers = load_layers(find_config(name))
    except (ValueError, OSError) as error:
        return [str(error)]
    request = Request(layers=layers)
    try:
        take_imports(request.layers, request.typed)
    except ValueError as error:
        return [str(error)]
    take_loggers(request.layers, request.typed)
    named = request.named_task
    try:
        tasks = [check_task(named)] if named is not None else [task] if task is not None else list(TASKS)
    except ValueError as error:
        return [f"{source('task', None, request)}: {error}"]
    return min((find_errors(request, "fit", one) for one in tasks), key=len)


def find_errors(request: Request, command: str, task: str) -> list[str]:
    """Find what is wrong in the options of a run, beyond the first error. Nothing is built and no data is read.

    Args:
        request: Configs and typed options; a checkpoint is left out.
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        task: Name of the task.

    Returns:
        One line for each error, in the order in which they are met.
    """
    try:
        options = TaskParser(command, task, request.custom_sections, request.data_format)
    except ValueError as error:
        return [f"{source('data_format', None, request)}: {error}"]
    known = options.known_options()
    errors = [f"{where} is no option{hint}" for where, hint in unknown_options(request, known, options.custom, task)]
    given = _known_only(merge(request.layers, request.typed), [*known, *options.custom])
    parsed = _parse(options, given, request, errors)
    for section, check in _checks(options, parsed).items():
        values = {name: parsed[section][name] for name in given.get(section) or {} if name in parsed[section]}
        for name, message in _wrong(check, values):
            errors.append(f"{source(f'{section}.{name}', None, request)}{_without_name(message, section, name)}")
    for name, message in _wrong(_check_seed, {"seed_everything": parsed.get("seed_everything")}):
        errors.append(f"{source(name, None, request)}{_without_name(message, '', name)}")
    return list(dict.fromkeys(errors))


def _check_seed(values: Options) -> None:
    seed = values.get("seed_everything")
    if not isinstance(seed, bool):  # true draws one
        check_number("seed_everything", seed, minimum=0, maximum=_LARGEST_SEED, integer=True, allow_none=True)


def check_values(options: TaskOptions, parsed: Namespace, *sections: str) -> None:
    """Check all values of some sections, before anything is built or written.

    Raises:
        ValueError: For the first that is out of range.
    """
    checks = _checks(options, parsed)
    for section in sections:
        if section in checks:
            checks[section](dict(vars(parsed[section])))


def _known_only(content: Mapping[str, Any], known: list[str]) -> Options:
    """The options that exist, and were reported already where they do not."""
    groups, kept = option_groups(known), {}
    for name, value in content.items():
        if str(name).removesuffix("+") in known:
            kept[name] = value
        elif name in groups and isinstance(value, Mapping):
            inner = [option[len(name) + 1 :] for option in known if option.startswith(f"{name}.")]
            kept[name] = _known_only(value, inner)
    return kept


def _parse(options: TaskParser, given: Options, request: Request, errors: list[str]) -> Namespace:
    """Parse, setting aside what the parser refuses; ``given`` and ``errors`` change."""
    while True:
        needed = {} if "data" in options.custom else {"root": "."}
        whole = {**given, "data": {**needed, **(given.get("data") or {})}}
        try:
            return options.parser.parse_args([f"--config={yaml.safe_dump(whole)}"])
        except ArgumentError as error:
            errors.append(explain(str(error), request, options.classes))
            refused = re.findall(r"Parser key \"([^\"]+)\":", str(error))
            if not refused or refused[-1].split(".")[0] in options.custom or not _remove(given, refused[-1]):
                return Namespace()  # what is left cannot be parsed


def _remove(content: Options, key: str) -> bool:
    """Remove a dotted key, or the option that it lies in; whether it was there."""
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(content.get(section), dict):
            last = section
            break
        content = content[section]
    removed = [content.pop(name) for name in (last, f"{last}+") if name in content]
    return bool(removed)


def _checks(options: TaskOptions, parsed: Namespace) -> dict[str, Callable[[Options], Any]]:
    """Section -> what raises a ValueError for values that are of the right type and out of range."""
    checks: dict[str, Callable[[Options], Any]] = {
        "trainer": lambda values: check_trainer(values, options.command),
        "checkpoint": check_checkpoint,
        "last": lambda values: LastCheckpoint(**values),
        "prediction": lambda values: PredictionWriter(".", **values),
    }
    if "model" not in options.custom:
        checks["model"] = lambda values: options.classes["model"].check(**values)
    if "data" not in options.custom:
        checks["data"] = lambda values: options.classes["data"](**{"root": ".", **values})
    return {section: check for section, check in checks.items() if section in parsed}


def _wrong(check: Callable[[Options], Any], values: Options) -> list[tuple[str, str]]:
    """The values that a check refuses, and why.

    A value can be to blame if without it something else, or nothing, is wrong. Of several it is the one without which
    least remains wrong, as of a layer and arguments that it has not, or else that which the message begins with.
    """
    reason = _reason(check, values)
    if reason is None:
        return []
    remaining = {}
    for name in sorted(values, key=lambda name: not reason.startswith(name)):
        others = {other: value for other, value in values.items() if other != name}
        if _reason(check, others) != reason:
            remaining[name] = others
    if not remaining:
        return []
    further = {name: _wrong(check, others) for name, others in remaining.items()}
    blamed = min(further, key=lambda name: len(further[name]))
    return [(blamed, reason), *further[blamed]]


def _reason(check: Callable[[Options], Any], values: Options) -> str | None:
    try:
        check(deepcopy(values))
    except (ValueError, OSError, ImportError, TypeError) as error:
        return one_line(error)
    return None


def _without_name(message: str, section: str, name: str) -> str:
    """The end of a line that begins with an option: ``=VALUE: ...``, or what is wrong with it."""
    for prefix in (f"{section}.{name}", name):
        if message.startswith(f"{prefix}="):
            return message.removeprefix(prefix)
    return f": {message}"
