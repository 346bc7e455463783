"""Which formulation is expected to be fastest on a CPU: what each one does, times the rates of the machine.

See ``work.py`` for the work, and ``rates.py`` for where rates come from.
"""

from __future__ import annotations

import math
from functools import cache

import torch

from dyvision.ops.formulations import TABLE, applicable, separable
from dyvision.ops.problem import Plan, Problem
from dyvision.ops.rates import find_rates, scaled, shipped, typical_processors
from dyvision.ops.work import Rates

#: by pass, family of problems, formulation and term
Coefficients = dict[str, dict[str, dict[str, dict[str, float]]]]

#: kinds of problems by the coefficients that they share: a group is computed as what is dense
FAMILIES = {"pointwise": "pointwise", "depthwise": "depthwise", "dense": "dense", "in groups": "dense"}
#: a backward pass is two convolutions of the forward pass' size
_BACKWARD = 2.0
#: how much further than typical processors from each other another one may be from them
_MARGIN = 1.3
#: what a choice may cost without anybody measuring the machine for it: a share of its time, or seconds
_SMALL_SHARE, _SMALL_TIME = 0.05, 2e-5


def estimate(problem: Problem, measure: bool = True) -> Plan:
    """Choose what leads; else by the work and the rates of the machine; where there is no work, by rank.

    Args:
        problem: What to compute.
        measure: Whether the rates may be measured now, if they are not known and the choice depends on them.
    """
    names = separable(problem) if problem.training else applicable(problem)
    for name in names:
        leads = TABLE[name].leads
        if leads is not None and leads(problem):
            return Plan(name, name)
    if problem.training:  # of what says where it leads there, the passes were not fitted
        names = tuple(name for name in names if TABLE[name].leads is None)
    if problem.device != "cpu" or problem.dtype not in (torch.float32, torch.float64):
        name = min(names, key=lambda name: TABLE[name].rank(problem))
        return Plan(name, name)
    passes = ("forward", "backward") if problem.training else ("forward",)
    costs = [costs_of(problem, direction, names) for direction in passes]
    certain = [_certain(cost) for cost in costs]
    if not all(certain):
        rates = find_rates(measure).rates
        certain = [name or fastest(cost, rates) for name, cost in zip(certain, costs, strict=True)]
    forward, *backward = [name for name in certain if name is not None]
    return Plan(forward, backward[0] if backward else forward)


def costs_of(
    problem: Problem, direction: str, names: tuple[str, ...], fitted: Coefficients | None = None
) -> dict[str, Rates]:
    """Of each formulation, the units of work by the rate that they are multiplied by.

    Args:
        problem: What to compute.
        direction: ``"forward"`` or ``"backward"``.
        names: Formulations; one that does not say what it does is not in the result.
        fitted: Coefficients; by default those that are shipped.
    """
    fitted = shipped()["coefficients"] if fitted is None else fitted
    found = {}
    for name in names:
        work = TABLE[name].work
        if work is None:
            continue
        amounts = dict.fromkeys(Rates._fields, 0.0)
        coefficients, scale = _coefficients(fitted, direction, FAMILIES[problem.kind], name)
        for term, (rate, amount) in work(problem).items():
            amounts[rate] += scale * coefficients.get(term, 1.0) * amount
        found[name] = Rates(**amounts)
    return found


def seconds(cost: Rates, rates: Rates) -> float:
    """Time of so much work at such rates."""
    return sum(amount * rate for amount, rate in zip(cost, rates, strict=True))


def fastest(costs: dict[str, Rates], rates: Rates) -> str:
    """The formulation that is expected to take the least time."""
    return min(costs, key=lambda name: seconds(costs[name], rates))


def _certain(costs: dict[str, Rates]) -> str | None:
    """The formulation that is as good as the fastest at any rates between and around those of typical processors."""
    low, high = _range(torch.get_num_threads())
    middle = Rates(*(math.sqrt(a * b) for a, b in zip(low, high, strict=True)))
    name = fastest(costs, middle)
    own = costs[name]
    for other, cost in costs.items():
        if other == name:
            continue
        # each rate is what is worst for the choice
        worst = [b if mine > theirs else a for a, b, mine, theirs in zip(low, high, own, cost, strict=True)]
        taken = sum(rate * mine for rate, mine in zip(worst, own, strict=True))
        lost = taken - sum(rate * theirs for rate, theirs in zip(worst, cost, strict=True))
        if lost > max(_SMALL_SHARE * taken, _SMALL_TIME):
            return None
    return name


@cache
def _range(threads: int) -> tuple[Rates, Rates]:
    columns = list(zip(*(scaled(row, threads) for row in typical_processors()), strict=True))
    return Rates(*(min(column) / _MARGIN for column in columns)), Rates(*(max(column) * _MARGIN for column in columns))


def _coefficients(fitted: Coefficients, direction: str, family: str, name: str) -> tuple[dict[str, float], float]:
    """Those of a formulation's terms, and a factor; every term counts as it is where nothing was fitted."""
    found = fitted[direction][family].get(name)
    if found is not None or direction == "forward":
        return found or {}, 1.0
    return fitted["forward"][family].get(name, {}), _BACKWARD
