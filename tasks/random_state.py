"""The state of the random generators, in plain types, so that a resumed run draws what the unbroken one would have."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import distributed

from dyvision.arguments import check_number


def capture() -> dict[str, Any]:
    """State of Python's, NumPy's and PyTorch's generators in every process (all of them have to call this)."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    state = {
        "python": [version, list(internal), gauss],
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }
    states: list[Any] = [state]
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        states = [None] * distributed.get_world_size()
        distributed.all_gather_object(states, state)
    return {"processes": states}


def problems(captured: Any) -> Iterator[str]:
    """What is wrong with a stored state, found with generators of its own: those of the process stay as they are."""
    states = captured.get("processes") if isinstance(captured, Mapping) else None
    if not isinstance(states, list) or not states or not all(isinstance(state, Mapping) for state in states):
        yield "random_state is not one of random generators, expected 'processes' with the states of each"
        return
    for number, state in enumerate(states):
        for name, check in _CHECKS.items():
            try:
                check(state[name])
            # each generator refuses in its own way what is none of its states
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
                yield (
                    f"random_state.processes[{number}].{name} is not one of random generators ({reason}), expected "
                    "the state of one"
                )


def restore(captured: Mapping[str, Any]) -> None:
    """Set the generators of this process; with another number of processes there is nothing to continue.

    Args:
        captured: A state in which :func:`problems` finds none.
    """
    states = captured["processes"]
    parallel = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if parallel else (0, 1)
    if world != len(states):
        return
    state = states[rank]
    random.setstate(_python(state["python"]))
    np.random.set_state(_numpy(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _python(stored: Any) -> tuple[Any, ...]:
    version, internal, gauss = stored
    return version, tuple(internal), gauss


def _numpy(stored: Any) -> dict[str, Any]:
    key = np.array(stored["state"]["key"], dtype=np.uint32)
    return {**stored, "state": {**stored["state"], "key": key}}


def _check_python(stored: Any) -> None:
    state = _python(stored)
    random.Random().setstate(state)
    if state[2] is not None:
        check_number("the next normal number", state[2])


def _check_numpy(stored: Any) -> None:
    state = _numpy(stored)
    # NumPy itself reads behind the end of the key
    check_number("pos", state["state"]["pos"], minimum=0, maximum=624, integer=True)
    check_number("has_gauss", state["has_gauss"], minimum=0, maximum=1, integer=True)
    check_number("gauss", state["gauss"])
    if state["state"]["key"].shape != (624,):
        raise ValueError(f"key has {state['state']['key'].size} numbers, expected 624")
    np.random.RandomState(0).set_state(state)


def _check_torch(stored: Any) -> None:
    torch.Generator().set_state(stored.cpu())


def _check_cuda(stored: Any) -> None:
    if stored is not None and (not isinstance(stored, torch.Tensor) or stored.dtype != torch.uint8):
        raise TypeError(f"{type(stored).__name__} instead of bytes")
    if stored is not None and torch.cuda.is_available():
        torch.Generator("cuda").set_state(stored.cpu())


_CHECKS: dict[str, Callable[[Any], None]] = {
    "python": _check_python,
    "numpy": _check_numpy,
    "torch": _check_torch,
    "cuda": _check_cuda,
}
