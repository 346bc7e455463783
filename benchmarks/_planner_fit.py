"""The coefficients of the cost model, and rates of machines that nobody can ask any more, fitted to measured times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.planner_data import PASSES, Data, Row, Times, is_held_out
from dyvision.ops.cost_model import FAMILIES, Coefficients
from dyvision.ops.formulations import TABLE
from dyvision.ops.work import Rates

#: of a term before it is fitted
START = 0.25
#: how sharply the softened choice takes the formulation with the least time, in logarithms of times
SHARPNESS = 0.08
#: weight of the logarithm's error, beside what the choice costs
ERROR = 0.4
#: standard deviation of the logarithm of measured rates: the choice is not to depend on their last digit
NOISE = 0.1
STEPS = 1500


class _Samples(NamedTuple):
    """Rows of one machine, pass and family as tensors.

    Attributes:
        amounts: By formulation, ``[rows, terms]``, at rates of one.
        times: ``[rows, formulations]``, infinite where a formulation does not apply.
        choices: ``[sets, 1, formulations]``, which formulations are chosen from.
    """

    amounts: dict[str, Tensor]
    times: Tensor
    choices: Tensor


def fit(files: Mapping[str, Data], fold: int = 0) -> tuple[Coefficients, dict[str, Rates]]:
    """Fit coefficients to all machines at once.

    Args:
        files: By name. Rates that are None are fitted, but for the native kernels' where none was measured: these keep
            the other machine's share of the library's.
        fold: Which quarter of the rows is held out.

    Returns:
        The coefficients, and the rates by name.
    """
    known = {name: data.rates for name, data in files.items() if data.rates is not None}
    reference = next(iter(known.values()))
    scale = torch.tensor(reference, dtype=torch.float64)
    shifts = {
        name: (scale.log() if data.rates is None else torch.tensor(data.rates, dtype=torch.float64).log()) - scale.log()
        for name, data in files.items()
    }
    unknown = {
        name: torch.zeros(len(scale), dtype=torch.float64, requires_grad=True) for name in files if name not in known
    }
    terms, parts = _terms(files, fold), {}
    weights = {
        (direction, family, name): torch.full((len(found),), math.log(START), dtype=torch.float64, requires_grad=True)
        for (direction, family), by_name in terms.items()
        for name, found in by_name.items()
    }
    for file, data in files.items():
        for direction, family in terms:
            rows = [
                r for i, r in enumerate(data.rows) if FAMILIES[r.problem.kind] == family and not is_held_out(i, fold)
            ]
            parts[file, direction, family] = _samples(rows, direction, terms[direction, family], scale)
    optimizer = torch.optim.Adam([*weights.values(), *unknown.values()], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        loss = torch.zeros((), dtype=torch.float64)
        for (file, direction, family), samples in parts.items():
            shift = unknown.get(file, shifts[file])
            shift = shift + NOISE * torch.randn(len(scale), dtype=torch.float64, generator=generator)
            found = {
                name: (weights[direction, family, name], [Rates._fields.index(rate) for rate in by_term.values()])
                for name, by_term in terms[direction, family].items()
            }
            loss = loss + _loss(samples, found, shift)
        loss = loss + 1e-3 * sum(shift.square().sum() for shift in unknown.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    coefficients: Coefficients = {direction: {family: {} for family in FAMILIES.values()} for direction in PASSES}
    for (direction, family, name), values in weights.items():
        numbers = values.detach().exp().tolist()
        coefficients[direction][family][name] = {
            term: float(f"{number:.3g}") for term, number in zip(terms[direction, family][name], numbers, strict=True)
        }
    rates = dict(known)
    for file, shift in unknown.items():
        found_rates = Rates(*(scale * shift.detach().exp()).tolist())
        if not any("native" in row.forward for row in files[file].rows):
            native = reference.native / reference.convolution * found_rates.convolution
            found_rates = found_rates._replace(native=native)
        rates[file] = Rates(*(float(f"{rate:.4g}") for rate in found_rates))
    return coefficients, rates


def _terms(files: Mapping[str, Data], fold: int) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """By pass and family, and by formulation: the terms of its work in any row, and the rate of each."""
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {(d, f): {} for d in PASSES for f in FAMILIES.values()}
    for data in files.values():
        for index, row in enumerate(data.rows):
            for direction in PASSES:
                for name in () if is_held_out(index, fold) else getattr(row, direction):
                    work = TABLE[name].work
                    if work is not None:
                        into = found[direction, FAMILIES[row.problem.kind]].setdefault(name, {})
                        into.update({term: rate for term, (rate, _) in work(row.problem).items()})
    return found


def _samples(rows: list[Row], direction: str, terms: dict[str, dict[str, str]], scale: Tensor) -> _Samples:
    names = list(terms)
    times: list[Times] = [getattr(row, direction) for row in rows]
    amounts = {}
    for name, by_term in terms.items():
        work = TABLE[name].work
        assert work is not None
        lines = []
        for row, measured in zip(rows, times, strict=True):
            found = work(row.problem) if name in measured else {}
            lines.append([found[term].amount if term in found else 0.0 for term in by_term])
        by_rate = [Rates._fields.index(rate) for rate in by_term.values()]
        amounts[name] = torch.tensor(lines, dtype=torch.float64) * scale[by_rate]
    table = [[measured.get(name, math.inf) for name in names] for measured in times]
    # for training, without native kernels, and for inference
    alone = [TABLE[name].separable and name != "native" for name in names]
    sets = [alone] if direction == "backward" else [alone, [name != "native" for name in names], [True] * len(names)]
    return _Samples(amounts, torch.tensor(table, dtype=torch.float64), torch.tensor(sets)[:, None])


def _loss(samples: _Samples, weights: dict[str, tuple[Tensor, list[int]]], shift: Tensor) -> Tensor:
    """What the choice costs, softened; and a little of the error of the times."""
    columns = [
        (samples.amounts[name] @ (weight + shift[by_rate]).exp() + 1e-9).log()
        for name, (weight, by_rate) in weights.items()
    ]
    expected, applies = torch.stack(columns, 1), samples.times.isfinite()
    measured = samples.times.clamp(max=1e9).log()
    allowed = applies & samples.choices
    best = measured.masked_fill(~allowed, math.inf).amin(2, keepdim=True)
    lost = (measured - best).masked_fill(~allowed, 0.0).clamp(max=1.0)
    lost = lost + 0.2 * (lost > math.log(1.1))
    chance = (-expected / SHARPNESS).expand_as(lost).masked_fill(~allowed, -math.inf).softmax(2)
    error = (expected - measured).square().masked_fill(~applies, 0.0).sum(1) / applies.sum(1)
    return (chance * lost).sum(2).mean() + ERROR * error.mean()
