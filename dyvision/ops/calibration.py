"""The rates of the machine at hand, by a few operations of known work: about a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops import native
from dyvision.ops.geometry import Geometry
from dyvision.ops.work import FRESH, Rates
from dyvision.processor import usable_cores

#: rounds over all probes: the fastest run of each counts, so what disturbs one for a moment is not seen
_ROUNDS = 6
#: seconds per probe and round; after these in all, two rounds are enough
_LONGEST, _ENOUGH = 0.015, 1.2
#: what the even rounds found over what the odd ones found, at most
_MOST_SPREAD = 1.6
#: threads that all probes in parallel keep busy, and the share of them that computes where nothing else does
_PARALLEL, _SHARE = 4, 0.7
#: a native multiply-add over that of a library convolution, where there are no native kernels
_NATIVE = 1.1


def measure_rates() -> Rates | None:
    """Measure on the CPU with torch's present number of threads.

    Returns:
        The rates; None if other work kept the processor busy, which may be found after a fifth of a second.
    """
    halves: tuple[dict[str, float], dict[str, float]] = ({}, {})
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        probes = _probes()
        for run, _ in probes.values():
            run()
        start, used = time.perf_counter(), time.process_time()
        for turn in range(_ROUNDS):
            half = halves[turn % 2]
            for name, (run, amount) in probes.items():
                half[name] = min(half.get(name, math.inf), _fastest(run) / amount)
            taken = time.perf_counter() - start
            if time.process_time() - used < _SHARE * min(torch.get_num_threads(), usable_cores(), _PARALLEL) * taken:
                return None
            if turn and taken > _ENOUGH:
                break
    first, second = halves
    if any(max(first[name], second[name]) > _MOST_SPREAD * min(first[name], second[name]) for name in probes):
        return None
    rates = {name: min(first[name], second[name]) for name in probes}
    rates.setdefault("native", _NATIVE * rates["convolution"])
    return Rates(**rates)


def _fastest(run: Callable[[], object]) -> float:
    fastest, end = math.inf, time.perf_counter() + _LONGEST
    while True:
        start = time.perf_counter()
        run()
        stop = time.perf_counter()
        fastest = min(fastest, stop - start)
        if stop > end:
            return fastest


def _probes() -> dict[str, tuple[Callable[[], object], float]]:
    """By rate, what is run, and how much work that is."""
    to: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are

    def numbers(*shape: int) -> Tensor:
        # no random numbers: whoever asks for a plan keeps his sequence
        return torch.full(shape, 0.5, **to)

    x, tiny, matrix = numbers(1, 64, 56, 56), numbers(16), numbers(16, 192, 192)
    weight, wide, deep = numbers(64, 64, 3, 3), numbers(1, 256, 56, 56), numbers(256, 1, 3, 3)
    near, far = numbers(2, 2**15), numbers(2, 2**23)  # 128 KiB and 32 MiB, from one place to another
    probes: dict[str, tuple[Callable[[], object], float]] = {
        "call": (lambda: torch.add(tiny, tiny), 1),
        "product": (lambda: torch.bmm(matrix, matrix), 16 * 192**3),
        "convolution": (lambda: F.conv2d(x, weight, padding=1), 64 * 64 * 9 * 56 * 56),
        "depthwise": (lambda: F.conv2d(wide, deep, padding=1, groups=256), 256 * 9 * 56 * 56),
        "cache": (lambda: near[0].copy_(near[1]), 2 * 4 * 2**15),
        "memory": (lambda: far[0].copy_(far[1]), 2 * 4 * 2**23),
        "fresh": (lambda: torch.empty(FRESH // 4 + 2**20, **to).fill_(0.5), FRESH + 2**22),
    }
    found = native.convolution(1, (56, 56), (64, 64, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 1))
    if found is not None:
        one = weight[None]
        probes["native"] = (lambda: found(x, one), 64 * 64 * 9 * 56 * 56)
    return probes
