"""What a ``forward`` does besides computing its output, which a graph of its operations would do no more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from dyvision.text import some


@contextmanager
def no_effects(module: nn.Module) -> Iterator[list[str]]:
    """Find random numbers that are drawn, and numbers and buffers that change, while a module is traced; undo them.

    A stand-in for a tensor draws and changes nothing: what happens here decides the path of the trace (stochastic
    depth), or becomes a constant in it (a counter).

    Args:
        module: What is traced; its attributes themselves are given back by the caller.

    Yields:
        A list that has, after the block, one phrase for each kind.
    """
    effects: list[str] = []
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    numbers = _numbers(module)
    buffers = {name: (buffer, buffer._version, buffer.clone()) for name, buffer in module.named_buffers()}
    try:
        yield effects
    finally:
        drawn = not torch.equal(torch_state, torch.get_rng_state()) or python_state != random.getstate()
        drawn = drawn or not all(
            np.array_equal(one, other) for one, other in zip(numpy_state, np.random.get_state(), strict=True)
        )
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        changed = [name for name, value in _numbers(module).items() if numbers.get(name, value) != value]
        for name, (buffer, version, values) in buffers.items():
            if buffer._version != version:
                changed.append(name)
                with torch.no_grad():
                    buffer.copy_(values)
        if drawn:
            effects.append("draws random numbers itself")
        if changed:
            effects.append(f"changes {some(changed, 3)}")


def _numbers(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if type(value) in (bool, int, float)}
