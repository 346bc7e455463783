"""Time and memory of dynamic operators, networks and training steps over the static ones, measured in turn."""

from dyvision.analysis.benchmark.memory import measure_peak_memory
from dyvision.analysis.benchmark.timing import (
    MIN_ROUNDS,
    Comparison,
    Ratio,
    Run,
    Timer,
    compare,
    describe_machine,
    make_timer,
    time_calls,
)

__all__ = (
    "MIN_ROUNDS",
    "Comparison",
    "Ratio",
    "Run",
    "Timer",
    "compare",
    "describe_machine",
    "make_timer",
    "measure_peak_memory",
    "time_calls",
)
