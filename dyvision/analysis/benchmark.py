"""Time of several functions as ratios measured in turn, and the peak memory of one.

A shared or throttled machine changes its speed within seconds, so times taken one after the other do not compare. Here
the functions take turns in one loop, and a ratio is the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import platform
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


def measure_peak_memory(run: Run, model: nn.Module, device: torch.device) -> int:
    """Bytes of a model's parameters and buffers, and the most that one call holds beyond what was there before it.

    That is gradients (if they were None before), activations kept for the backward pass, and temporary tensors; not
    the input, nor an optimiser's state.

    * CUDA: the allocator's peak (``torch.cuda.max_memory_allocated``), workspaces of the libraries included.
    * CPU: the storages of all tensors that operations return, counted from then until they are freed. What an
      operation uses inside (a library's scratch memory) is not seen. The call is much slower: do not time it.

    Args:
        run: What is called once; it should have run before, so that nothing is allocated for the first time.
        model: Whose parameters and buffers are added.
        device: Where it runs.
    """
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if device.type != "cuda":
        with _LiveStorages() as storages:
            run()
        return own + storages.peak
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return own + torch.cuda.max_memory_allocated(device) - before


def describe_machine(device: torch.device) -> dict[str, str]:
    """Name the processor, the threads and the version of torch, as they should be printed beside times."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}",
        "torch": f"torch {torch.__version__}",
    }


def _cpu_name() -> str:
    # platform.processor() is empty on most Linux distributions
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _count_calls(run: Run, warmup: int, timer: Timer) -> int:
    for _ in range(warmup - 1):
        run()
    once = timer(run, 1)
    return max(1, min(_MOST_CALLS, round(_SHORTEST / once) if once > 0 else _MOST_CALLS))


class _LiveStorages(TorchDispatchMode):
    """Follows the storages that operations create.

    Attributes:
        live: Bytes that exist now.
        peak: The most that existed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        # the reference of a storage lives here; by address, as storages compare by content
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            self._meet(value, created=False)  # what no operation made was there before
        output = func(*args, **kwargs)
        for value in tree_leaves(output):
            self._meet(value, created=True)
        return output

    def _meet(self, value: Any, created: bool) -> None:
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return
        storage = value.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        size = storage.nbytes() if created else 0

        def free(_: Any) -> None:
            del self._known[address]
            self.live -= size

        self._known[address] = weakref.ref(storage, free)
        self.live += size
        self.peak = max(self.peak, self.live)
