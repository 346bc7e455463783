"""Processes that run the command line from scratch, forked from one that has imported everything: a second each."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Process:
    """A forked command.

    Attributes:
        pid: Its process id; it leads a process group of its own.
        log: What it prints.
    """

    pid: int
    log: Path
    status: int | None = None

    def wait(self, seconds: float = 180.0) -> int:
        """Wait for its end: the exit status, or minus the number of the signal that ended it.

        Raises:
            TimeoutError: If it hangs; it is killed then.
        """
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"no end after {seconds:.0f} s; the last lines: {self.tail()}")
            time.sleep(0.005)
        return self.status if self.status is not None else 0

    def poll(self) -> int | None:
        """The exit status if it has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def send(self, signum: int, group: bool = False) -> None:
        """Send a signal to it, or to it and its workers."""
        (os.killpg if group else os.kill)(self.pid, signum)

    def text(self) -> str:
        """All it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tail(self) -> str:
        """The last lines it has printed."""
        return " | ".join(self.text().strip().splitlines()[-3:])

    def errors(self) -> list[str]:
        """The error lines it has printed."""
        return [line for line in self.text().splitlines() if line.startswith("dyvision: error:")]


def start(arguments: Sequence[str], folder: Path, prepare: Callable[[], None] | None = None) -> Process:
    """Start ``dyvision`` with these arguments in a folder; ``prepare`` runs in the new process before."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"log-{time.monotonic_ns()}.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Process(pid, log)
    status = 1
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(folder)
        file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        if prepare is not None:
            prepare()
        from dyvision.cli import main

        status = main(list(arguments))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
