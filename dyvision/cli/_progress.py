"""What a command is busy with, where that takes a while."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from dyvision.text import printable


@contextmanager
def working(console: Console, text: str) -> Iterator[None]:
    """Say what is being done: in a terminal as long as it takes, else as a line of standard error, as in a log.

    Args:
        console: Where the results are printed.
        text: What is being done.
    """
    if not console.is_terminal:
        print(printable(f"{text} ..."), file=sys.stderr, flush=True)
        yield
        return
    with console.status(text):
        yield
