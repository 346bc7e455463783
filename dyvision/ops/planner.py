"""Which formulation computes a per-sample convolution: a forced one, one that a compiler can trace, or the fastest.

:func:`formulation` forces one; what a compiler or exporter traces gets a formulation that works with a dynamic batch;
for everything else the caller says how the fastest is found, by measurements (``measuring.py``) or by the cost model
(``cost_model.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dyvision.ops.cost_model import estimate
from dyvision.ops.formulations import TABLE, Formulation
from dyvision.ops.geometry import Geometry
from dyvision.ops.modes import is_exporting_to_onnx, is_traced
from dyvision.ops.problem import Plan, Problem
from dyvision.text import did_you_mean

try:  # torch 2.7; before it, all sizes count as dynamic
    from torch.fx.experimental.symbolic_shapes import has_static_value
except ImportError:
    has_static_value = None  # type: ignore[assignment]

_ANY_BATCH = tuple(row for row in TABLE.values() if row.any_batch)
_forced: list[str] = []


@contextmanager
def formulation(name: str) -> Iterator[None]:
    """Force one formulation inside the ``with`` block wherever it applies.

    Args:
        name: One of :data:`dyvision.ops.FORMULATIONS`. Where it does not apply (``matmul`` for a 3x3 kernel,
            ``mix_outputs`` without a mixture) the choice is the ordinary one.

    Raises:
        ValueError: If there is no such formulation.
    """
    if name not in TABLE:
        hint = did_you_mean(name, TABLE, 1)
        raise ValueError(f"unknown formulation {name!r}{hint}; choose from {', '.join(TABLE)}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def forced_formulation() -> str | None:
    """What :func:`formulation` forces at present."""
    return _forced[-1] if _forced else None


def make_plan(problem: Problem, find_fastest: Callable[[Problem], Plan]) -> Plan:
    """Choose: what is forced, what a compiler can trace, or what ``find_fastest`` finds."""
    forced = forced_formulation()
    if forced is not None and TABLE[forced].applies(problem):
        return Plan(forced, forced)
    return _traceable(problem) if is_traced() else find_fastest(problem)


def _traceable(problem: Problem) -> Plan:
    """What can be traced: anything measured for sizes that a compiler knows, or what works for all."""
    if not torch.compiler.is_compiling() or is_exporting_to_onnx():
        return _for_all_sizes(problem)
    sizes = (problem.batch, problem.in_channels, *problem.size)
    if problem.kernel != (1, 1) and has_static_value is not None and all(has_static_value(size) for size in sizes):
        parts = problem._replace(geometry=tuple(problem.geometry))  # type: ignore[arg-type]
        return Plan(*_estimate_fixed(*parts))
    return _for_all_sizes(problem)


def _for_all_sizes(problem: Problem) -> Plan:
    """The first by rank of the formulations that work with any batch; a compiler traces this function, too."""
    first: Formulation | None = None
    for row in _ANY_BATCH:
        # whether it applies comes last: some ask devices, which is not to be traced
        if (first is None or row.rank(problem) < first.rank(problem)) and row.applies(problem):
            first = row
    assert first is not None
    return Plan(first.name, first.name)


@torch.compiler.assume_constant_result
def _estimate_fixed(*parts: Any) -> tuple[str, str]:
    """:func:`estimate`, called and not traced by a compiler, which passes plain values only."""
    problem = Problem(*parts)
    problem = problem._replace(geometry=Geometry(*problem.geometry))
    # without measuring: other code of the compiler is at work
    plan = estimate(problem, measure=False) if problem.device == "cpu" else _for_all_sizes(problem)
    return plan.forward, plan.backward
