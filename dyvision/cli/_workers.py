"""Worker processes that load data and died: what that means, and which option helps."""

from __future__ import annotations

import re

_DIED = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal: (?P<signal>[^.]*)|exited unexpectedly)")


def explain_worker(error: BaseException) -> str | None:
    """Say in one line why a worker process ended, or return None if the error is about something else.

    PyTorch raises in the main process, wherever it is at that moment, when a worker is gone.
    """
    died = _DIED.search(str(error)) if isinstance(error, RuntimeError) else None
    if died is None:
        return None
    signal = (died["signal"] or "").strip()
    if signal == "Bus error":
        return (
            "a worker process that loads data found no room in shared memory (signal Bus error): set data.num_workers "
            "to 0, or give the machine more of it (docker run --shm-size=2g)"
        )
    if signal in ("", "Killed"):
        how = "was killed from outside (signal Killed)" if signal else "ended without a word"
        return (
            f"a worker process that loads data {how}, most often because memory ran out: lower data.num_workers (0 "
            "loads in the main process) or data.batch_size"
        )
    return (
        f"a worker process that loads data crashed (signal {signal}): set data.num_workers to 0 to see where, or leave "
        "out the file it was reading"
    )
