"""Which formulation computes a per-sample convolution."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from dyvision.ops._geometry import Geometry

#: ``grouped``: the batch folded into groups; ``matmul``: batched matrix product (1x1, one group); ``loop``: one library
#: convolution per sample; ``mix_outputs``: convolve with all kernels, mix the results (mixtures only).
FORMULATIONS = ("grouped", "matmul", "loop", "mix_outputs")

_forced: list[str] = []


@contextmanager
def formulation(name: str) -> Iterator[None]:
    """Force one formulation inside the ``with`` block wherever it applies.

    Args:
        name: One of :data:`FORMULATIONS`. Where it does not apply (``matmul`` for a 3x3 kernel, ``mix_outputs`` without
            a mixture) the choice is the ordinary one.

    Raises:
        ValueError: If there is no such formulation.
    """
    if name not in FORMULATIONS:
        near = difflib.get_close_matches(name, FORMULATIONS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown formulation {name!r}{hint}; choose from {', '.join(FORMULATIONS)}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def forced() -> str | None:
    """Return the innermost formulation forced by :func:`formulation`, or None."""
    return _forced[-1] if _forced else None


def choose_dynamic(weight: Tensor, geometry: Geometry) -> str:
    """Name the formulation of one kernel per sample.

    The batched matrix product wins for 1x1 kernels on every shape measured so far; the rest goes through groups.
    """
    pointwise = tuple(weight.shape[-2:]) == (1, 1) and geometry.groups == 1
    name = forced()
    if name in ("grouped", "loop") or (name == "matmul" and pointwise):
        return str(name)
    return "matmul" if pointwise and weight.shape[0] > 1 else "grouped"
