"""Which formulation computes a per-sample convolution: forced, measured, or estimated from shipped measurements.

:func:`formulation` forces one, ``dyvision.ops.benchmark = True`` measures each shape once and remembers the fastest,
and otherwise a cost model (``planner_<device>.json``, fitted by ``benchmarks/fit_planner.py``) estimates. What a
compiler or exporter traces gets a formulation that works with a dynamic batch.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyvision.ops import triton
from dyvision.ops.geometry import Edges, Geometry, is_channels_last
from dyvision.ops.modes import is_traced

try:  # torch 2.7; before it, all sizes count as dynamic
    from torch.fx.experimental.symbolic_shapes import has_static_value
except ImportError:
    has_static_value = None  # type: ignore[assignment]

#: ``grouped``: the batch folded into groups; ``matmul``: batched matrix product (1x1); ``unfold``: the same of the
#: unfolded input; ``shifted``: a sum over the taps of a depthwise kernel; ``loop``: one library convolution per sample;
#: ``mix_outputs``: convolve with all kernels, mix the results (mixtures only).
#: ``triton``: kernels of our own, on CUDA devices.
FORMULATIONS = ("grouped", "matmul", "unfold", "shifted", "loop", "mix_outputs", "triton")
#: plan of an empty batch, for which there is nothing to choose
EMPTY = "empty"
#: formulations that autograd differentiates as they are, so that one plan holds for both passes
WHOLE = ("shifted", "mix_outputs", "triton")
#: 1x1 kernels; one input channel per output channel; larger kernels that see all channels, or their group's
KINDS = ("pointwise", "depthwise", "dense", "in groups")
#: numbers that stay in a core's cache, in all of them
CACHES = (2**18, 2**23)


class Plan(NamedTuple):
    """The formulations of the two passes."""

    forward: str
    backward: str


class Problem(NamedTuple):
    """What the choice depends on.

    Attributes:
        batch: Samples B.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Height and width of the kernel.
        size: Height and width of the input.
        geometry: Stride, padding, dilation, groups.
        mixed: Number of kernels K that are mixed, 0 if the kernels are given.
        device: Type of the device.
        dtype: Type of the convolution.
        channels_last: Whether the input is in channels-last memory.
        training: Whether there will be a backward pass.
        linear: Whether outputs can be mixed instead of kernels.
    """

    batch: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    geometry: Geometry
    mixed: int
    device: str
    dtype: torch.dtype
    channels_last: bool
    training: bool
    linear: bool

    @property
    def depthwise(self) -> bool:
        """Whether every output channel sees one input channel."""
        return self.geometry.groups == self.in_channels

    @property
    def applicable(self) -> tuple[str, ...]:
        """The formulations that can compute it."""
        names = ["grouped", "matmul" if self.kernel == (1, 1) else "unfold"]
        names += ["loop"] if self.batch > 1 else []  # of one sample it is "grouped"
        names += ["shifted"] if self.depthwise else []
        names += ["mix_outputs"] if self.mixed and self.linear else []
        names += ["triton"] if self.dtype in triton.DTYPES and triton.available(self.device) else []
        return tuple(names)

    @property
    def single(self) -> tuple[str, ...]:
        """Of these, the ones whose passes can be chosen one by one."""
        return tuple(name for name in self.applicable if name not in WHOLE)

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`: the formulations rank differently in each."""
        if self.depthwise and self.geometry.groups > 1:
            return "depthwise"
        if self.kernel == (1, 1):
            return "pointwise"
        return "dense" if self.geometry.groups == 1 else "in groups"

    @property
    def output_pixels(self) -> int:
        """Height times width of the output."""
        height, width = self.geometry.output_size(self.size, self.kernel)
        return height * width


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


def forced_formulation() -> str | None:
    """What :func:`formulation` forces at present."""
    return _forced[-1] if _forced else None


def describe_problem(
    input: Tensor,
    weight: Tensor,
    geometry: Geometry,
    mixed: int,
    training: bool,
    linear: bool = True,
    dtype: torch.dtype | None = None,
    edges: Edges | None = None,
) -> Problem:
    """Collect what the choice depends on, see :class:`Problem`.

    The type is the input's by default; ``edges`` are what the input is padded with before the convolution.
    """
    left, right, top, bottom = edges or (0, 0, 0, 0)
    return Problem(
        batch=input.shape[0],
        in_channels=input.shape[1],
        out_channels=weight.shape[1],
        kernel=(weight.shape[3], weight.shape[4]),
        size=(input.shape[2] + top + bottom, input.shape[3] + left + right),
        geometry=geometry,
        mixed=mixed,
        device=input.device.type,
        dtype=input.dtype if dtype is None else dtype,
        channels_last=is_channels_last(input),
        training=training,
        linear=linear,
    )


def make_plan(problem: Problem) -> Plan:
    """Choose: what is forced, what a compiler can trace, what was measured, or what the cost model expects."""
    forced = forced_formulation()
    if forced is not None and forced in problem.applicable:
        return Plan(forced, forced)
    if is_traced():
        return _traceable(problem)
    return _measured(problem) if wants_measurement() else estimate(problem)


def _traceable(problem: Problem) -> Plan:
    """What can be traced: anything measured for sizes that a compiler knows, or what works for all."""
    if not torch.compiler.is_compiling():
        return _for_all_sizes(problem)
    sizes = (problem.batch, problem.in_channels, *problem.size)
    if problem.kernel != (1, 1) and has_static_value is not None and all(has_static_value(size) for size in sizes):
        parts = problem._replace(geometry=tuple(problem.geometry))  # type: ignore[arg-type]
        return Plan(*_estimate_fixed(*parts))
    return _for_all_sizes(problem)


def _for_all_sizes(problem: Problem) -> Plan:
    """Groups cannot depend on a dynamic batch, nor can the length of a loop."""
    name = "matmul" if problem.kernel == (1, 1) else "shifted" if problem.depthwise else "unfold"
    return Plan(name, name)


@torch.compiler.assume_constant_result
def _estimate_fixed(*parts: Any) -> tuple[str, str]:
    """:func:`estimate`, called and not traced by a compiler, which passes plain values only."""
    problem = Problem(*parts)
    problem = problem._replace(geometry=Geometry(*problem.geometry))
    plan = _for_all_sizes(problem) if cost_model(problem.device) is None else estimate(problem)
    return plan.forward, plan.backward


@cache
def estimate(problem: Problem) -> Plan:
    """Choose by the cost model of the device; without one, matrix products for 1x1 kernels and groups for others."""
    costs = cost_model(problem.device)
    if costs is None or problem.dtype not in (torch.float32, torch.float64):
        name = "matmul" if problem.kernel == (1, 1) and problem.geometry.groups == 1 else "grouped"
        return Plan(name, name)
    terms = monomials(problem)

    def expected(direction: str, name: str) -> float:
        weights = costs[direction][problem.kind].get(name)
        return math.inf if weights is None else sum(w * t for w, t in zip(weights, terms, strict=True))

    names = problem.single if problem.training else problem.applicable
    forward = min(names, key=lambda name: expected("forward", name))
    return Plan(forward, min(names, key=lambda name: expected("backward", name)) if problem.training else forward)


def monomials(problem: Problem) -> list[float]:
    """What the logarithm of the time is linear in.

    Products of up to two logarithms of the sizes, and by how much the kernels and the unfolded input exceed caches.
    """
    groups, taps = problem.geometry.groups, math.prod(problem.kernel)
    inputs = problem.in_channels if problem.kind == "depthwise" else problem.in_channels // groups
    sizes = (
        problem.batch,
        inputs,
        problem.out_channels,
        problem.output_pixels,
        taps,
        math.prod(problem.geometry.stride),
        groups if problem.kind == "in groups" else 1,
    )
    logs = [math.log(size) for size in sizes]
    kernels = problem.batch * problem.out_channels * problem.in_channels // groups * taps
    columns = problem.batch * problem.in_channels * taps * problem.output_pixels
    excess = [max(math.log(numbers / cache), 0.0) for numbers in (kernels, columns) for cache in CACHES]
    return [1.0, *logs, *(a * b for a, b in itertools.combinations_with_replacement(logs, 2)), *excess]


@cache
def cost_model(device: str) -> dict[str, dict[str, dict[str, list[float]]]] | None:
    """Weights of :func:`monomials` by pass, kind and formulation; None if nothing was measured on such a device."""
    path = resources.files("dyvision.ops").joinpath(f"planner_{device}.json")
    return json.loads(path.read_text(encoding="utf-8"))["weights"] if path.is_file() else None


def wants_measurement() -> bool:
    """``dyvision.ops.benchmark``; not with several processes, which have to agree."""
    if not sys.modules["dyvision.ops"].benchmark:  # whose import is not complete when this module's begins
        return False
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not (several and torch.distributed.get_world_size() > 1)


@cache
def _measured(problem: Problem) -> Plan:
    from dyvision.ops.measuring import measure

    times = measure(problem)
    if not problem.training:
        forward = min(times["forward"], key=times["forward"].__getitem__)
        return Plan(forward, forward)
    forward = min(problem.single, key=times["forward"].__getitem__)
    backward = min(problem.single, key=times["backward"].__getitem__)
    whole = min(times["whole"], key=times["whole"].__getitem__, default=None)
    if whole is None or times["whole"][whole] > times["forward"][forward] + times["backward"][backward]:
        return Plan(forward, backward)
    return Plan(whole, whole)
