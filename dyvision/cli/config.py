"""``dyvision config``: look at what configs say together, check them, print and copy packaged ones."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dyvision.cli.configs import find_config, load_layers
from dyvision.cli.typed import TypedOptions
from dyvision.saving import replacing
from dyvision.text import did_you_mean, printable

_ACTIONS = ("show", "check", "cat", "cp")
_FLAGS = ("--defaults", "-h", "--help")


def add_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("config", help="print what a run would use, check configs, copy a packaged one")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser(
        "show",
        help="print configs with their bases and what is typed, merged (dyvision config NAME does the same)",
        usage="dyvision config show NAME_OR_FILE ... [--any.option VALUE ...] [--defaults]",
        description="Print what a run would use: bases, further configs and typed options, each over the one before.",
    )
    show.add_argument(
        "arguments", nargs="+", metavar="NAME_OR_FILE", help="configs, later ones win, and options of a run"
    )
    show.add_argument("--defaults", action="store_true", help="also every option that is not given (takes seconds)")
    show.set_defaults(run=_show)
    check = actions.add_parser(
        "check",
        help="report every error of configs at once, without building anything",
        description="Check each config, with its bases, by itself. The exit status is 2 if there are errors.",
    )
    check.add_argument("files", nargs="+", metavar="NAME_OR_FILE", help="packaged configs or files")
    check.add_argument("--task", help="for configs that name none: classification, segmentation or detection")
    check.set_defaults(run=_check)
    cat = actions.add_parser("cat", help="print a packaged config as it is, without its base")
    cat.add_argument("name", help="for example segmentation/quickstart.yaml")
    cat.set_defaults(run=_cat)
    copy = actions.add_parser("cp", help="copy a packaged config, to edit it")
    copy.add_argument("name", help="for example segmentation/quickstart.yaml")
    copy.add_argument("destination", type=Path, help="a file, or a folder that exists")
    copy.set_defaults(run=_cp)


def complete(arguments: Sequence[str]) -> list[str]:
    """A command line of ``config`` as its parser takes it.

    ``config NAME`` is ``config show NAME``; options that belong to a run are none of the parser's.

    Args:
        arguments: Everything behind ``dyvision``; other commands are left as they are.
    """
    given = list(arguments)
    if given[:1] != ["config"] or len(given) < 2:
        return given
    if given[1] not in (*_ACTIONS, "-h", "--help"):
        given.insert(1, "show")
    if given[1] != "show":
        return given
    own = [argument for argument in given[2:] if argument in _FLAGS]
    rest = [argument for argument in given[2:] if argument not in _FLAGS]
    return ["config", "show", *own, *(["--", *rest] if rest else [])]


def _show(options: argparse.Namespace) -> None:
    import yaml

    typed = TypedOptions.read(options.arguments)
    names = [*typed.words, *(name or "" for name in typed.take("config"))]
    if not all(names) or not names:
        raise ValueError("config show: give the name of a config or a file; see 'dyvision list configs'")
    if options.defaults:
        from dyvision.cli._parsing import parse
        from dyvision.cli.request import read_request
        from dyvision.cli.task_parser import TaskParser

        request = read_request([*(f"--config={name}" for name in names), *typed.arguments()])
        parser = TaskParser("fit", request.task, request.custom_sections, request.data_format)
        sys.stdout.write(f"{parser.parser.dump(parse(parser, request), skip_none=False).rstrip()}\n")
        return
    from dyvision.cli._merged import merge

    try:
        layers = [layer for name in names for layer in load_layers(name)]
    except FileNotFoundError as error:
        hint = did_you_mean(names[0], _ACTIONS)
        raise FileNotFoundError(f"{error}; dyvision config {'|'.join(_ACTIONS)}{hint}") from error
    sys.stdout.write(yaml.safe_dump(merge(layers, typed), sort_keys=False, allow_unicode=True))


def _check(options: argparse.Namespace) -> None:
    from dyvision.cli.checking import check_config

    found = {name: check_config(name, options.task) for name in options.files}
    for name, errors in found.items():
        print(f"{name}: {f'{len(errors)} error' + 's' * (len(errors) > 1) if errors else 'fine'}")
        for error in errors:
            print(f"  {printable(error)}")
    if any(found.values()):
        raise SystemExit(2)


def _cat(options: argparse.Namespace) -> None:
    print(find_config(options.name).read_text(encoding="utf-8"), end="")


def _cp(options: argparse.Namespace) -> None:
    source, destination = find_config(options.name), options.destination
    if destination.is_dir():
        destination = destination / source.name
    if destination.exists():
        raise FileExistsError(f"{destination} exists; choose another name or remove it first")
    with replacing(destination) as part:
        shutil.copyfile(source, part)
    print(destination)
