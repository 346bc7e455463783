"""What was given on a command line of the trainer, or in its configs, and is no option."""

from __future__ import annotations

from dyvision.cli.configs import option_groups, shown_name, unknown_keys
from dyvision.cli.request import Request
from dyvision.cli.task_table import TASKS
from dyvision.cli.words import suggest
from dyvision.signatures import constructor_signature


def check_keys(request: Request, known: list[str], free: list[str], task: str | None = None) -> None:
    """Report every key that does not exist, with the nearest one, in one error.

    Args:
        request: Configs and typed options.
        known: Dotted names of all options.
        free: Sections that take the arguments of any class.
        task: Name of the task; by default that of the request.

    Raises:
        ValueError: If there are such.
    """
    task = request.task if task is None else task
    wrong = [f"{where}{hint}" for where, hint in unknown_options(request, known, free, task)]
    if wrong:
        raise ValueError(f"unknown option{'s' * (len(wrong) > 1)}: {'; '.join(wrong)}")


def unknown_options(request: Request, known: list[str], free: list[str], task: str) -> list[tuple[str, str]]:
    """What was given and is no option, each as it was given (``a.yaml: 'model.bakbone'``), and the nearest name.

    Args:
        request: Configs and typed options.
        known: Dotted names of all options.
        free: Sections that take the arguments of any class.
        task: Name of the task.
    """
    known = [*known, *free]
    groups = option_groups(known)
    names = [*known, *groups, "base"]
    wrong = [
        (f"{shown_name(path)}: {key!r}", _elsewhere(key, task) or suggest(key, names))
        for path, content in request.layers
        for key in unknown_keys(content, known)
    ]
    for name, _ in request.typed:
        key = name.removesuffix("+")
        if key in ("help", "print_config") or key.endswith(".help") or key in groups:
            continue
        below_option = any(key.startswith(f"{option}.") for option in known)
        negative = key.removeprefix("no_") in known
        if key not in known and not below_option and not negative:
            wrong.append((f"--{key}", _elsewhere(key, task) or suggest(key, [*known, *groups])))
    return wrong


def _elsewhere(key: str, task: str) -> str:
    """Which other tasks have an option that this one has not; empty if none has it."""
    from dyvision import data, tasks

    section, _, name = key.partition(".")
    package = {"model": tasks, "data": data}.get(section)
    having = [
        other
        for other, entry in TASKS.items()
        if package and name in constructor_signature(getattr(package, getattr(entry, section))).parameters
    ]
    return f" (there is one in {' and '.join(having)}, none in {task})" if having else ""
