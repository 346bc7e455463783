"""The state of the random generators, in plain types, so that a resumed run draws what the unbroken one would have."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import distributed


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


def restore(captured: dict[str, Any]) -> None:
    """Set the generators of this process; with another number of processes there is nothing to continue.

    Raises:
        ValueError: If it is no such state.
    """
    try:
        _restore(captured)
    # each generator refuses in its own way what is none of its states
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ValueError(
            f"the checkpoint's random_state is not one of random generators ({reason}); use an earlier checkpoint"
        ) from error


def _restore(captured: dict[str, Any]) -> None:
    states = captured["processes"]
    parallel = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if parallel else (0, 1)
    if world != len(states):
        return
    state = states[rank]
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = state["numpy"]
    key = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
