"""Which formulation is fastest, by times on random tensors, measured once per problem (``dyvision.ops.benchmark``)."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyvision.ops._autograd import differentiable_convolution, differentiable_mixture
from dyvision.ops._tiling import Tile, choose_tile, convolve_mixture, convolve_mixture_backward
from dyvision.ops.cost_model import estimate
from dyvision.ops.formulations import TABLE, applicable, separable
from dyvision.ops.kernels import Mixture
from dyvision.ops.problem import Plan, Problem

_ROUNDS = 3
#: seconds after which a formulation gets no further round
_ENOUGH = 0.2


def find_fastest(problem: Problem) -> Plan:
    """Choose by measurements where they are wanted, and else by the cost model."""
    return _measured(problem) if wants_measurement() else estimate(problem)


def wants_measurement() -> bool:
    """``dyvision.ops.benchmark``; not with several processes, which have to agree."""
    if not sys.modules["dyvision.ops"].benchmark:  # whose import is not complete when this module's begins
        return False
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not (several and torch.distributed.get_world_size() > 1)


@cache
def _measured(problem: Problem) -> Plan:
    times = measure(problem)
    if not problem.training:
        forward = min(times["forward"], key=times["forward"].__getitem__)
        return Plan(forward, forward)
    forward = min(separable(problem), key=times["forward"].__getitem__)
    backward = min(separable(problem), key=times["backward"].__getitem__)
    whole = min(times["whole"], key=times["whole"].__getitem__, default=None)
    if whole is None or times["whole"][whole] > times["forward"][forward] + times["backward"][backward]:
        return Plan(forward, backward)
    return Plan(whole, whole)


def measure(problem: Problem, rounds: int = _ROUNDS) -> dict[str, dict[str, float]]:
    """Time every applicable formulation, in turns.

    Args:
        problem: What to compute; its backward pass too if it is for training.
        rounds: Times each one runs after a warm-up, fewer if it is slow.

    Returns:
        Median seconds by pass and by formulation; the passes are ``"forward"``, and for training ``"backward"`` and,
        for formulations whose passes belong together, ``"whole"``, the sum of both.
    """
    passes: dict[str, tuple[_Make, tuple[str, ...]]] = {"forward": (_forward, applicable(problem))}
    if problem.training:
        alone = separable(problem)
        passes["backward"] = (_backward, alone)
        passes["whole"] = (_both_passes, tuple(name for name in applicable(problem) if name not in alone))
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast(problem.device, enabled=False):
        tensors = _draw(problem)
        return {
            direction: _time({name: make(problem, tensors, name) for name in names}, problem.device, rounds)
            for direction, (make, names) in passes.items()
        }


class _Tensors(NamedTuple):
    """What the formulations get: for given kernels ``weight``, which is the mixture mixed."""

    input: Tensor
    mixture: Mixture
    weight: Tensor
    grad: Tensor


_Make = Callable[[Problem, _Tensors, str], Callable[[], object]]


def _draw(problem: Problem) -> _Tensors:
    to: dict[str, Any] = {"device": problem.device, "dtype": problem.dtype}
    input = torch.randn(problem.batch, problem.in_channels, *problem.size, **to)
    if problem.channels_last:
        input = input.contiguous(memory_format=torch.channels_last)
    shape = (problem.out_channels, problem.in_channels // problem.geometry.groups, *problem.kernel)
    count = max(problem.mixed, 1)
    coefficients = torch.full((problem.batch, count), 1 / count, device=problem.device)
    mixture = Mixture(torch.randn(count, *shape, device=problem.device), coefficients)
    size = problem.geometry.output_size(problem.size, problem.kernel)
    grad = torch.randn(problem.batch, problem.out_channels, *size, **to)
    return _Tensors(input, mixture, mixture.mix().to(problem.dtype), grad)


def _tile(problem: Problem, tensors: _Tensors, name: str) -> Tile | None:
    return choose_tile(name, problem.dtype, problem.batch, tensors.mixture, problem.geometry)


def _forward(problem: Problem, tensors: _Tensors, name: str) -> Callable[[], object]:
    (input, mixture, weight, _), geometry = tensors, problem.geometry
    if not problem.mixed:
        return lambda: TABLE[name].forward(input, weight, geometry, None)
    tile = _tile(problem, tensors, name)
    return lambda: convolve_mixture(input, mixture, geometry, name, tile)


def _backward(problem: Problem, tensors: _Tensors, name: str) -> Callable[[], object]:
    (input, mixture, weight, grad), geometry = tensors, problem.geometry
    if not problem.mixed:
        return lambda: TABLE[name].gradients(grad, input, weight, geometry, [True, True])
    tile, mask = _tile(problem, tensors, name), [True, True, True, False]
    return lambda: convolve_mixture_backward(grad, input, mixture, geometry, name, tile, mask)


def _both_passes(problem: Problem, tensors: _Tensors, name: str) -> Callable[[], object]:
    geometry, plan, tile = problem.geometry, Plan(name, name), _tile(problem, tensors, name)
    parts = (tensors.input, *tensors.mixture[:2]) if problem.mixed else (tensors.input, tensors.weight)
    leaves = [tensor.detach().requires_grad_() for tensor in parts]

    def run() -> object:
        input, *others = leaves
        with torch.enable_grad():
            if problem.mixed:
                output = differentiable_mixture(input, Mixture(*others), geometry, plan, (tile, tile))
            else:
                output = differentiable_convolution(input, others[0], geometry, plan)
            return torch.autograd.grad(output, leaves, output.detach())

    return run


def _time(functions: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            if turn and sum(seconds[name]) > _ENOUGH:
                continue
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
