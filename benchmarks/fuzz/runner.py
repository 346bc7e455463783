"""How examples are made, held to a time and a memory, and counted; the same for every kind."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

#: bytes that the examples of a kind may take together, beyond what the process has at its start
MEMORY = 6 * 2**30


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Args:
        examples: What is made up.
        check: Uses one example, with a folder that all examples share, and returns how it ended (``"accepted"``,
            ``"refused"``); raises an error if it ended wrongly.
        seconds: How long one example may take.
    """

    examples: st.SearchStrategy[Any]
    check: Callable[[Any, Path], str]
    seconds: float = 60


def fuzz(kind: Kind, examples: int, number: int = 0) -> Counter[str]:
    """Check so many examples.

    Args:
        kind: What to make up, and what has to hold.
        examples: How many.
        number: Seed; the same examples for the same number.

    Returns:
        How often each outcome occurred.

    Raises:
        Exception: What the smallest failing example raised.
    """
    counts: Counter[str] = Counter(accepted=0, refused=0)
    with tempfile.TemporaryDirectory() as folder, limited_memory(MEMORY):

        @seed(number)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(kind.examples)
        def one(example: Any) -> None:
            with limited_time(kind.seconds):
                counts[kind.check(example, Path(folder))] += 1

        one()
    return counts


@contextlib.contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Let the block take that long: then it fails, or ends the process if it is in compiled code and never returns.

    Raises:
        AssertionError: If it takes longer.
    """
    late = AssertionError(f"took more than {seconds} s")
    fired = False

    def fail(*_: object) -> None:
        nonlocal fired
        fired = True
        raise late

    handler = signal.signal(signal.SIGALRM, fail)
    # whoever runs this may have set an alarm, too (pytest-timeout)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    started = time.monotonic()
    faulthandler.dump_traceback_later(2 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001))
    if fired:  # and taken for an error of a file
        raise late


@contextlib.contextmanager
def limited_memory(further: int) -> Iterator[None]:
    """Let the block allocate that many bytes more, where the system can limit it: a bomb is a MemoryError then."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + further, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
