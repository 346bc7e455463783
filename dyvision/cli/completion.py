"""``dyvision completion``: the commands and options that a shell offers at the tab key."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dyvision.cli.common_options import TRAINER_COMMANDS
from dyvision.cli.task_table import TASKS
from dyvision.cli.words import commands_of

_SHELLS = ("bash", "zsh", "fish", "tcsh")
#: options of the trainer's commands -> the kind of names (``dyvision list``) that they take
_NAMED = {
    "model.layer": "layers",
    "model.backbone": "backbones",
    "model.head": "heads",
    "config": "configs",
    "data_format": "formats",
}
#: arguments of the other commands -> the option that takes the same names
_NAMED_ELSEWHERE = {
    "backbone": "model.backbone",
    "layer": "model.layer",
    "layers": "model.layer",
    "model": "model.backbone",
    "networks": "model.backbone",
}
#: ends of the names of options that take a path
_FOLDERS = ("root", "output", "dir", "dirpath", "sample_data")
_FILES = ("ckpt_path", "weights", "checkpoint")


def add_completion(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands and options at the tab key",
        description="Keep it as ~/.local/share/bash-completion/completions/dyvision for bash, as _dyvision in a "
        "folder of $fpath for zsh, as ~/.config/fish/completions/dyvision.fish for fish.",
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell that reads the script")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import shtab

    sys.stdout.write(shtab.complete(_with_all_options(options.parser), options.shell))


def _with_all_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser of the whole command line, with the options of all tasks, and names and files where they are taken."""
    from dyvision.cli._option_errors import choices_of
    from dyvision.cli.listing import names_of
    from dyvision.cli.task_parser import task_parser

    commands = commands_of(parser)
    options = {name: action for task in TASKS for name, action in _options(task_parser("fit", task)).items()}
    names = {option: names_of(kind) for option, kind in _NAMED.items()}
    names["model.head"] = [name.partition("/")[2] for name in names["model.head"]]
    names["task"] = list(TASKS)
    for command in TRAINER_COMMANDS:
        for name, action in options.items():
            kind, text = getattr(action, "_typehint", None), str(action.help).replace("%", "%%")
            added = commands[command].add_argument(f"--{name}", default=argparse.SUPPRESS, help=text)
            added.choices = names.get(name) or list(dict.fromkeys(map(str, choices_of(kind)))) or None
            _offer_files(added)
    for action_parser in commands_of(commands["config"]).values():
        action_parser._actions[1].choices = names["config"]  # the first behind --help
    for one in (*commands.values(), *commands_of(commands["data"]).values()):
        for argument in one._actions:
            kind = _NAMED_ELSEWHERE.get(argument.dest)
            if argument.choices is None and kind is not None:
                argument.choices = names[kind]
            _offer_files(argument)
    return parser


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options of a parser, without dashes; those that only print help on a class are left out."""
    return {
        option.removeprefix("--"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.endswith((".help", "--help", "--print_config"))
    }


def _offer_files(argument: argparse.Action) -> None:
    """Complete what takes a path by folders or files."""
    import shtab

    last = argument.dest.rpartition(".")[2]
    if argument.choices is None and (last.endswith(_FOLDERS) or argument.type is Path):
        argument.complete = shtab.DIRECTORY if last.endswith(_FOLDERS) else shtab.FILE  # type: ignore[attr-defined]
    elif last.endswith(_FILES):
        argument.complete = shtab.FILE  # type: ignore[attr-defined]
