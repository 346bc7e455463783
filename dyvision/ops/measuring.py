"""Times of the formulations of one problem, measured on random tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dyvision.ops._formulations import BACKWARD, FORWARD
from dyvision.ops._tiling import convolve_mixture, convolve_mixture_backward
from dyvision.ops.kernels import Mixture
from dyvision.ops.planner import WHOLE, Problem

_ROUNDS = 3
#: seconds after which a formulation gets no further round
_ENOUGH = 0.2


def measure(problem: Problem, rounds: int = _ROUNDS) -> dict[str, dict[str, float]]:
    """Time every applicable formulation, in turns.

    Args:
        problem: What to compute; its backward pass too if it is for training.
        rounds: Times each one runs after a warm-up, fewer if it is slow.

    Returns:
        Median seconds by pass and by formulation; the passes are ``"forward"``, and for training ``"backward"`` and,
        for formulations whose passes belong together, ``"whole"``, the sum of both.
    """
    from dyvision.ops import dynamic_conv2d, formulation, mixture_conv2d

    geometry = problem.geometry
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast(problem.device, enabled=False):
        input = torch.randn(
            problem.batch, problem.in_channels, *problem.size, device=problem.device, dtype=problem.dtype
        )
        if problem.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        shape = (problem.out_channels, problem.in_channels // geometry.groups, *problem.kernel)
        count = max(problem.mixed, 1)
        coefficients = torch.full((problem.batch, count), 1 / count, device=problem.device)
        mixture = Mixture(torch.randn(count, *shape, device=problem.device), coefficients)
        weight = mixture.mix().to(problem.dtype)
        output = FORWARD["grouped"](input, weight, geometry, None)

        def forward(name: str) -> Callable[[], Tensor]:
            if name in FORWARD:
                if problem.mixed:
                    return lambda: convolve_mixture(input, mixture, geometry, name)
                return lambda: FORWARD[name](input, weight, geometry, None)

            def run() -> Tensor:
                with formulation(name):
                    if problem.mixed:
                        return mixture_conv2d(input, mixture.kernels, coefficients, **geometry._asdict())
                    return dynamic_conv2d(input, weight, **geometry._asdict())

            return run

        def backward(name: str) -> Callable[[], object]:
            if not problem.mixed:
                return lambda: BACKWARD[name](output, input, weight, geometry, [True, True])
            mask = [True, True, True, False]
            return lambda: convolve_mixture_backward(output, input, mixture, geometry, name, mask)

        names = problem.applicable
        times = {"forward": _time({name: forward(name) for name in names}, problem.device, rounds)}
        if problem.training:
            single = {name: backward(name) for name in problem.single}
            times["backward"] = _time(single, problem.device, rounds)
            whole = {name: _both_passes(problem, input, mixture, name) for name in names if name in WHOLE}
            times["whole"] = _time(whole, problem.device, rounds)
    return times


def _both_passes(problem: Problem, input: Tensor, mixture: Mixture, name: str) -> Callable[[], object]:
    from dyvision.ops import dynamic_conv2d, formulation, mixture_conv2d

    function: Callable[..., Tensor] = mixture_conv2d if problem.mixed else dynamic_conv2d
    parts = (input, *mixture[:2]) if problem.mixed else (input, mixture.mix().to(input.dtype))
    leaves = [tensor.detach().requires_grad_() for tensor in parts]

    def run() -> object:
        with formulation(name), torch.enable_grad():
            output = function(*leaves, **problem.geometry._asdict())
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
