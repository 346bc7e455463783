"""The error that every reader of this package raises, and the help it gives with misspelt names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dyvision.text import question, similar_names, some

_FROM_WORKER = "Caught DataError in DataLoader worker"


class DataError(ValueError):
    """Data on disk (or an argument that describes it) is not what the reader needs.

    The message is one sentence that names the file and what to do.

    Args:
        message: What is wrong, where, and what to do about it.
    """

    def __init__(self, message: str) -> None:
        if message.startswith(_FROM_WORKER):
            # DataLoader re-raises a worker's exception with the worker's whole traceback as its message; the sentence
            # meant for the user is what follows the exception's name in its last line.
            message = message.rsplit("DataError: ", 1)[-1].strip()
        super().__init__(message)


def did_you_mean(name: object, options: Iterable[object]) -> str:
    """A hint that ends an error message.

    Args:
        name: What was given.
        options: What would have been right.

    Returns:
        ``" Did you mean 'a' or 'b'?"``, or, when nothing is close, the first options there are.
    """
    names = [str(option) for option in options]
    close = similar_names(name, names)
    if close:
        asked = question(close)
        return f" {asked[0].upper()}{asked[1:]}"
    return f" There is: {some(names, 12)}." if names else ""


def looked_up(path: Path) -> str:
    """Where a relative path was looked up, as an addition to it in an error message; nothing for an absolute one."""
    return "" if path.is_absolute() else f" (looked up as {path.absolute()})"


def describe(folder: Path) -> str:
    """What lies in a folder, for an error message: ``"found: a, b"``, ``"it is empty"``, ``"it does not exist"``."""
    if not folder.exists():
        return "it does not exist"
    if not folder.is_dir():
        return "it is a file"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    return f"found: {some(names)}" if names else "it is empty"
