"""The ``dyvision`` command.

Each sub-command imports what it needs when it runs: ``dyvision --help`` and ``dyvision list`` start without Lightning.
Input that cannot work ends in one line that names the thing and the fix; ``DYVISION_DEBUG=1`` shows the traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dyvision.cli import errors
from dyvision.cli._messages import shorten_warnings
from dyvision.cli._terminal import prepare_streams
from dyvision.cli.common_options import TRAINER_COMMANDS, asks_for_common_options, print_common_options
from dyvision.cli.parser import run_command
from dyvision.cli.typed import TypedOptions

__all__ = ("main",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: Arguments without the program's name; ``sys.argv[1:]`` by default.

    Returns:
        0 if the command did its work, 1 if it did a part of it (``predict`` with images that cannot be read,
        ``compare`` with runs that cannot), 2 if it ended in an error, 130 if it was interrupted.
    """
    prepare_streams()
    shorten_warnings()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in TRAINER_COMMANDS:
            return _run_trainer(arguments[0], arguments[1:])
        return run_command(arguments)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # what Lightning makes of it while a trainer runs
            return _interrupted()
        raise
    except Exception as error:
        return errors.report(error)


def _interrupted() -> int:
    print("dyvision: interrupted", file=sys.stderr)
    return 130


def _run_trainer(command: str, arguments: list[str]) -> int:
    if asks_for_common_options(TypedOptions.read(arguments)):
        print_common_options(command)
        return 0
    from dyvision.cli.trainer import run_trainer

    run = run_trainer(command, arguments)
    if command != "predict":
        return 0
    from dyvision.cli.predict import report_predictions

    return report_predictions(run.trainer)
