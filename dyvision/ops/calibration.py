"""The rates of the machine at hand, by a few operations of known work: about a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops import native
from dyvision.ops.geometry import Geometry
from dyvision.ops.work import FRESH, Rates

#: rounds over all probes: the fastest of each counts, so what disturbs one for a moment is not seen
_ROUNDS = 6
#: seconds per probe and round
_LONGEST = 0.015
#: a native multiply-add over that of a library convolution, where there are no native kernels
_NATIVE = 1.1


def measure_rates() -> tuple[Rates, float]:
    """Measure on the CPU with torch's present number of threads.

    Returns:
        The rates, and by how much the two halves of the measurement differ at most: 1 if they agree.
    """
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        probes = _probes()
        for run, _ in probes.values():
            run()
        halves: tuple[dict[str, float], dict[str, float]] = ({}, {})
        for turn in range(_ROUNDS):
            half = halves[turn % 2]
            for name, (run, amount) in probes.items():
                half[name] = min(half.get(name, float("inf")), _fastest(run) / amount)
    first, second = halves
    spread = max(max(first[name], second[name]) / min(first[name], second[name]) for name in probes)
    rates = {name: min(first[name], second[name]) for name in probes}
    rates.setdefault("native", _NATIVE * rates["convolution"])
    return Rates(**rates), spread


def _fastest(run: Callable[[], object]) -> float:
    fastest, end = float("inf"), time.perf_counter() + _LONGEST
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

    x, tiny, matrix = numbers(1, 64, 56, 56), numbers(1, 8, 4, 4), numbers(16, 192, 192)
    weight, tiny_weight, deep = numbers(64, 64, 3, 3), numbers(8, 8, 3, 3), numbers(64, 1, 3, 3)
    near, far = numbers(2, 2**15), numbers(2, 2**23)  # 128 KiB and 32 MiB, from one place to another
    probes: dict[str, tuple[Callable[[], object], float]] = {
        "call": (lambda: F.conv2d(tiny, tiny_weight), 10),  # of which a small operation takes about a tenth
        "product": (lambda: torch.bmm(matrix, matrix), 16 * 192**3),
        "convolution": (lambda: F.conv2d(x, weight, padding=1), 64 * 64 * 9 * 56 * 56),
        "depthwise": (lambda: F.conv2d(x, deep, padding=1, groups=64), 64 * 9 * 56 * 56),
        "cache": (lambda: near[0].copy_(near[1]), 2 * 4 * 2**15),
        "memory": (lambda: far[0].copy_(far[1]), 2 * 4 * 2**23),
        "fresh": (lambda: torch.empty(FRESH // 4 + 2**20, **to).fill_(0.5), FRESH + 2**22),
    }
    found = native.convolution(1, (56, 56), (64, 64, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 1))
    if found is not None:
        one = weight[None]
        probes["native"] = (lambda: found(x, one), 64 * 64 * 9 * 56 * 56)
    return probes
