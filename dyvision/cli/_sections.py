"""Options of the trainer's commands (``--data.root DIR``) on the command lines of other commands."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dyvision.cli.typed import TypedOptions


def take_sections(arguments: Sequence[str], sections: Collection[str]) -> tuple[list[str], list[str]]:
    """Split a command line: a parser of ``argparse`` cannot take options that it does not know beside a file name.

    Args:
        arguments: What stands behind the command.
        sections: Sections whose options are taken out, such as ``"data"``.

    Returns:
        The others, and the options of the sections, one argument each.
    """
    own: list[str] = []
    taken: list[str] = []
    pending = ""  # an option without its value, which may be the next argument
    for argument in arguments:
        if pending and not argument.startswith("--"):
            taken[-1] = f"{pending}={argument}"
            pending = ""
        elif argument.startswith("--") and argument[2:].partition(".")[0] in sections:
            taken.append(argument)
            pending = "" if "=" in argument else argument
        else:
            own.append(argument)
            pending = ""
    return own, TypedOptions.read(taken).arguments()
