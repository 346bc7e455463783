"""Which formulation is expected to be fastest: a model of the times that were measured on a kind of device.

Its weights are ``planner_<device>.json``, fitted by ``benchmarks/fit_planner.py``.
"""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from importlib import resources
from typing import Any

import torch

from dyvision.ops.formulations import TABLE, applicable, separable
from dyvision.ops.problem import Plan, Problem

#: numbers that stay in a core's cache, in all of them
CACHES = (2**18, 2**23)


@cache
def estimate(problem: Problem) -> Plan:
    """Choose what leads; else by the cost model of the device; without one, by the rank of the formulations."""
    names = separable(problem) if problem.training else applicable(problem)
    for name in names:
        leads = TABLE[name].leads
        if leads is not None and leads(problem):
            return Plan(name, name)
    costs = cost_model(problem.device)
    if costs is None or problem.dtype not in (torch.float32, torch.float64):
        name = min(names, key=lambda name: TABLE[name].rank(problem))
        return Plan(name, name)
    terms = monomials(problem)

    def expected(direction: str, name: str) -> float:
        weights = costs[direction][problem.kind].get(name)
        return math.inf if weights is None else sum(w * t for w, t in zip(weights, terms, strict=True))

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


def fitted_on(device: str) -> str | None:
    """The machine on which a cost model's times were measured; None without a model for such a device."""
    content = _content(device)
    return None if content is None else content["machine"]


@cache
def cost_model(device: str) -> dict[str, dict[str, dict[str, list[float]]]] | None:
    """Weights of :func:`monomials` by pass, kind and formulation; None if nothing was measured on such a device."""
    content = _content(device)
    return None if content is None else content["weights"]


def _content(device: str) -> dict[str, Any] | None:
    path = resources.files("dyvision.ops").joinpath(f"planner_{device}.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
