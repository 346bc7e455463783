"""Time of several functions as ratios measured in turn.

A shared or throttled machine changes its speed within seconds, so times taken one after the other do not compare. Here
the functions take turns in one loop, and a ratio is the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from dyvision.processor import processor_name

Run = Callable[[], object]
#: Calls a function so many times and returns the seconds all of them took.
Timer = Callable[[Run, int], float]

MIN_ROUNDS = 3  # fewer have no percentiles
_SHORTEST = 0.002  # seconds; shorter functions are called several times per measurement
_MOST_CALLS = 50


@dataclass(frozen=True)
class Ratio:
    """Time of one function over that of another.

    Attributes:
        median: Over the rounds.
        low: 10th percentile.
        high: 90th percentile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write as ``median [low-high]``."""
        return f"{self.median:.2f} [{self.low:.2f}-{self.high:.2f}]"


@dataclass(frozen=True)
class Comparison:
    """Times of functions that took turns.

    Attributes:
        seconds: Per function, seconds per call in each round.
    """

    seconds: Mapping[str, Sequence[float]]

    @property
    def rounds(self) -> int:
        """How often each function had its turn."""
        return len(next(iter(self.seconds.values())))

    def milliseconds(self, name: str) -> float:
        """Median time of a call."""
        return 1e3 * statistics.median(self.seconds[name])

    def ratio(self, name: str, reference: str) -> Ratio:
        """Compare two functions round by round."""
        ratios = [own / other for own, other in zip(self.seconds[name], self.seconds[reference], strict=True)]
        deciles = statistics.quantiles(ratios, n=10, method="inclusive")
        return Ratio(statistics.median(ratios), deciles[0], deciles[-1])

    def fastest(self, names: Sequence[str]) -> str:
        """The function with the smallest median time."""
        return min(names, key=self.milliseconds)


def compare(
    runs: Mapping[str, Run],
    rounds: int = 15,
    warmup: int = 2,
    budget: float | None = None,
    timer: Timer | None = None,
) -> Comparison:
    """Measure functions in turn.

    Every round calls each function once, or several times if a call takes less than 2 ms. Each round starts with the
    next function, so that none always follows the same one.

    Args:
        runs: Functions by name.
        rounds: Rounds, at least 3.
        warmup: Calls of each function before the first round, at least 1.
        budget: Seconds after which no further round starts once there are three; None means no limit.
        timer: Calls and measures; :func:`time_calls` by default, see :func:`make_timer` for CUDA.

    Returns:
        The times of all rounds.

    Raises:
        ValueError: If there is nothing to measure, or ``rounds`` or ``warmup`` is too small.

    Example:
        >>> found = compare({"once": lambda: sum(range(1000)), "twice": lambda: sum(range(2000))}, rounds=5)
        >>> found.rounds, found.ratio("once", "once").median
        (5, 1.0)
    """
    if not runs:
        raise ValueError("runs must hold at least one function")
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds must be at least {MIN_ROUNDS}, got {rounds}")
    if warmup < 1:
        raise ValueError(f"warmup must be at least 1, got {warmup}")
    timer = timer or time_calls
    calls = {name: _count_calls(run, warmup, timer) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names, spent = list(runs), 0.0
    for done in range(rounds):
        if done >= MIN_ROUNDS and budget is not None and spent >= budget:
            break
        first = done % len(names)
        for name in names[first:] + names[:first]:
            taken = timer(runs[name], calls[name])
            spent += taken
            seconds[name].append(taken / calls[name])
    return Comparison(seconds)


def time_calls(run: Run, calls: int) -> float:
    """Seconds by the clock on the wall: what :func:`compare` measures with on the CPU."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


def make_timer(device: torch.device) -> Timer:
    """Return what measures on a device: the clock for the CPU, events for CUDA.

    The events enclose everything from the first launch to the end of the last kernel, with an idle device before.
    """
    if device.type != "cuda":
        return time_calls

    def time_events(run: Run, calls: int) -> float:
        with torch.cuda.device(device):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            begin.record()
            for _ in range(calls):
                run()
            end.record()
            torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return time_events


def describe_machine(device: torch.device) -> dict[str, str]:
    """Name the processor, the threads and the version of torch, as they should be printed beside times."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}",
        "torch": f"torch {torch.__version__}",
    }


def _count_calls(run: Run, warmup: int, timer: Timer) -> int:
    for _ in range(warmup - 1):
        run()
    once = timer(run, 1)
    return max(1, min(_MOST_CALLS, round(_SHORTEST / once) if once > 0 else _MOST_CALLS))
