"""The parser of the whole command line: one entry for each command, which has a file of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dyvision.cli._sections import take_sections
from dyvision.cli.benchmark import add_benchmark
from dyvision.cli.collapse import add_collapse
from dyvision.cli.common_options import TRAINER_COMMANDS
from dyvision.cli.compare import add_compare
from dyvision.cli.completion import add_completion
from dyvision.cli.config import add_config, complete
from dyvision.cli.data import add_data
from dyvision.cli.doctor import add_doctor
from dyvision.cli.dynamize import add_dynamize
from dyvision.cli.export import add_export
from dyvision.cli.imports import add_import_option, import_all
from dyvision.cli.listing import add_list
from dyvision.cli.profile import add_profile
from dyvision.cli.quickstart import add_quickstart
from dyvision.cli.report import add_report
from dyvision.cli.reproduce import add_reproduce
from dyvision.cli.words import OneLineParser, check_command, commands_of, refuse_unknown
from dyvision.version import VERSION

_DESCRIPTION = "Dynamic convolutions on any backbone: classification, segmentation, detection."
#: what adds each of the others
_ADD = (
    add_quickstart,
    add_list,
    add_config,
    add_data,
    add_profile,
    add_dynamize,
    add_collapse,
    add_compare,
    add_export,
    add_report,
    add_reproduce,
    add_benchmark,
    add_doctor,
    add_completion,
)
_EPILOG = """\
training and evaluation (dyvision fit --help):
  dyvision fit --config segmentation/quickstart.yaml --model.layer odconv
  dyvision validate --ckpt_path last
  dyvision predict --ckpt_path last.ckpt --data.predict_root photos/

--config takes a packaged name (dyvision list configs) or a file, several times;
later ones win, and what is typed wins over all.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of every command except those that run the trainer, which have parsers of their own."""
    parser: argparse.ArgumentParser = OneLineParser(
        prog="dyvision", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dyvision {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in TRAINER_COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    for add in _ADD:
        add(commands)
    for name, command in commands.choices.items():
        for one in commands_of(command).values() or [command] if name not in TRAINER_COMMANDS else ():
            add_import_option(one)
    parser.set_defaults(parser=parser)
    return parser


def parse_command(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line that does not run the trainer, and import the modules that it names.

    Args:
        arguments: Everything behind ``dyvision``.

    Returns:
        Its options; ``run`` is the function that runs it, ``sections`` the options that it hands on to the trainer.

    Raises:
        ValueError: If there is no such command or option.
    """
    parser = build_parser()
    commands = commands_of(parser)
    check_command(arguments, list(commands))
    command = commands.get(arguments[0]) if arguments else None
    sections = command.get_default("sections") if command is not None else None
    own, passed = take_sections(arguments, sections or ())
    options, unknown = parser.parse_known_args(complete(own))
    if unknown:
        for word in arguments[:2]:
            parser = commands_of(parser).get(word, parser)
        refuse_unknown(parser, unknown)
    options.sections = passed
    import_all(options.imports)
    return options


def run_command(arguments: Sequence[str]) -> int:
    """Parse a command line that does not run the trainer, and run it.

    Args:
        arguments: Everything behind ``dyvision``.

    Returns:
        Exit status: 1 if the command did a part of its work, else 0.

    Raises:
        ValueError: If there is no such command or option.
    """
    options = parse_command(arguments)
    return options.run(options) or 0
