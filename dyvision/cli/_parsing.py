"""From a request to parsed options: checkpoint, configs and command line in the order of precedence."""

from __future__ import annotations

import yaml
from jsonargparse import ArgumentError, Namespace

from dyvision.cli._option_errors import explain
from dyvision.cli._resume import kept_options
from dyvision.cli.request import Request, checkpoint_sections
from dyvision.cli.task_parser import TaskOptions, TaskParser
from dyvision.cli.task_table import TASKS
from dyvision.cli.unknown_options import check_keys

#: what an evaluation without weights is told
NEEDS_WEIGHTS = "needs trained weights: give --ckpt_path FILE, last or best, or --model FILE.onnx"


def check_without_task(command: str, request: Request) -> None:
    """Say what is wrong with a command line that names no task, before its user looks for one.

    Raises:
        ValueError: If an option is one of no task, or weights to evaluate are what is missing.
    """
    known: dict[str, None] = {}
    for task in TASKS:
        known |= dict.fromkeys(TaskParser(command, task, request.custom_sections).known_options())
    check_keys(request, list(known), free=request.custom_sections, task="")
    if command in ("validate", "test", "predict") and not request.layers and not request.custom_sections:
        raise ValueError(f"{command} {NEEDS_WEIGHTS}")


def parse(options: TaskOptions, request: Request) -> Namespace:
    """Check all keys, then parse.

    Args:
        options: The options that there are.
        request: What was asked for.

    Raises:
        ValueError: If an option does not exist or is of the wrong type.
    """
    known = options.known_options()
    check_keys(request, known, free=options.custom)
    data, model = checkpoint_sections(request, known)
    kept = kept_options(request.checkpoint) if options.command == "fit" else {}
    contents = [data, kept, *(content for _, content in request.layers), model]
    configs = [f"--config={yaml.safe_dump(content)}" for content in contents if content]
    try:
        parsed: Namespace = options.parser.parse_args([*configs, *request.typed.arguments()])
    except ArgumentError as error:
        raise ValueError(explain(str(error), request, options.classes)) from error
    return parsed
