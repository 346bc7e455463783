"""The ``dyvision`` command.

Each sub-command imports what it needs when it runs: ``dyvision --help`` and ``dyvision list`` start without Lightning.
Input that cannot work ends in one line that names the thing and the fix; ``DYVISION_DEBUG=1`` shows the traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dyvision.cli._commands import build_parser
from dyvision.cli._terminal import prepare_streams
from dyvision.cli._workers import explain_worker
from dyvision.text import printable

__all__ = ("main",)

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: Arguments without the program's name; ``sys.argv[1:]`` by default.

    Returns:
        0 if the command did its work, 1 if it did a part of it (``predict`` with images that cannot be read), 2 for
        input that cannot work.
    """
    prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in TRAINER_COMMANDS:
            from dyvision.cli._trainer import run_trainer

            run = run_trainer(arguments[0], arguments[1:])
            if arguments[0] == "predict":
                from dyvision.cli._predict import report_predictions

                return report_predictions(run.trainer)
        else:
            options = build_parser().parse_args(arguments)
            options.run(options)
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("DYVISION_DEBUG"):
            raise
        message = explain_worker(error) or printable(" ".join(str(error).split())) or type(error).__name__
        plain = isinstance(error, (ValueError, OSError)) or explain_worker(error) is not None
        kind = "" if plain else f"{type(error).__name__}: "
        print(f"dyvision: error: {kind}{message}", file=sys.stderr)
        if not plain:
            print("(DYVISION_DEBUG=1 shows the traceback)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dyvision: interrupted", file=sys.stderr)
        return 130
    return 0
