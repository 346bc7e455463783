"""Whether a run can go on from what a checkpoint has besides its weights: checked before anything is restored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from dyvision.arguments import shown
from dyvision.checkpoint_file import check_finite, tensors_in
from dyvision.tasks import random_state
from dyvision.tensor_kinds import check_kinds

#: counters larger than this are damage; a run of a year has fewer steps
MOST = 2**40
#: the parts of a checkpoint: what each is, and what its items are
_PARTS: dict[str, tuple[type, type | None]] = {
    "optimizer_states": (list, Mapping),
    "lr_schedulers": (list, Mapping),
    "loops": (Mapping, Mapping),
    "callbacks": (Mapping, Mapping),
    "ema": (Mapping, None),
    "random_state": (Mapping, None),
}
_WORDS = {list: "a list", Mapping: "a mapping", int: "a number"}
_AGAIN = "use an earlier checkpoint, or start a new run from its weights with --model.backbone_weights"


def check_resumable(checkpoint: Mapping[str, Any], where: str) -> None:
    """Check the state of the optimiser, the schedule, the loops, the callbacks and the averaged weights.

    Args:
        checkpoint: Content of the file; its ``state_dict`` was checked.
        where: The file, for messages.

    Raises:
        ValueError: If a part is missing or of another kind, a counter is none, or a value is not finite.
    """
    if "optimizer_states" not in checkpoint or "loops" not in checkpoint:
        raise ValueError(
            f"{where}: it has weights but not the state of the optimiser, so no run can be resumed from it; "
            "start a new one from its weights with --model.backbone_weights, or give another checkpoint"
        )
    problem = next(_problems(checkpoint), None)
    if problem is not None:
        refuse(where, problem)
    if "ema" in checkpoint:
        check_kinds(checkpoint["ema"]["raw_state_dict"], checkpoint["state_dict"], where, "ema.raw_state_dict.")
    for name in ("optimizer_states", "ema"):
        check_finite({f"{name}.{key}": tensor for key, tensor in tensors_in(checkpoint.get(name) or ())}, where)


def refuse(where: str, problem: str) -> NoReturn:
    """Say that a run cannot go on from a file, why, and what to do.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{where}: no run can be resumed from it: {problem}; {_AGAIN}")


def _problems(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    for name, (kind, items) in _PARTS.items():
        part = checkpoint.get(name)
        if name not in checkpoint and name not in ("optimizer_states", "lr_schedulers", "loops"):
            continue
        if not isinstance(part, kind):
            yield _expected(name, part, kind)
            return
        inside = part.items() if isinstance(part, Mapping) else enumerate(part)  # type: ignore[arg-type]
        wrong = [(key, item) for key, item in inside if items is not None and not isinstance(item, items)]
        yield from (_expected(f"{name}[{key!r}]", item, Mapping) for key, item in wrong)
    for name in ("global_step", "epoch"):
        if not _is_count(checkpoint.get(name)):
            yield f"{name} is {_shown(checkpoint.get(name))}, expected a whole number"
    yield from _counters("loops", checkpoint["loops"])
    loader = (checkpoint["loops"].get("fit_loop") or {}).get("state_dict") or {}
    states = loader.get("combined_loader") or [] if isinstance(loader, Mapping) else None
    if not isinstance(states, list) or not all(isinstance(state, Mapping | None) for state in states):
        yield "loops.fit_loop.state_dict is not one of data loaders"
    for number, state in enumerate(checkpoint["optimizer_states"]):
        yield from _optimizer(f"optimizer_states[{number}]", state)
    for name, state in (checkpoint.get("callbacks") or {}).items():
        yield from _strays(f"callbacks[{name.partition('{')[0]!r}]", state)
    if "ema" in checkpoint:
        yield from _average(checkpoint["ema"], checkpoint["state_dict"])
    if "random_state" in checkpoint:
        yield from random_state.problems(checkpoint["random_state"])


def _counters(name: str, values: Mapping[Any, Any], inside: bool = False) -> Iterator[str]:
    """Lightning's counters are below keys that end in ``progress``."""
    for key, value in values.items():
        counting = inside or str(key).endswith("progress")
        if isinstance(value, Mapping):
            yield from _counters(f"{name}.{key}", value, counting)
        elif str(key).endswith("progress"):
            yield _expected(f"{name}.{key}", value, Mapping)
        elif counting and not isinstance(value, bool) and not _is_count(value):
            yield f"{name}.{key} is {_shown(value)}, expected a whole number"


def _optimizer(name: str, state: Mapping[str, Any]) -> Iterator[str]:
    groups, values = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not groups or not all(isinstance(group, Mapping) for group in groups):
        yield f"{name} has no param_groups, expected a list of mappings"
    elif not isinstance(values, Mapping) or not all(isinstance(value, Mapping) for value in values.values()):
        yield f"{name} has no state of its parameters, expected a mapping of mappings"


def _strays(name: str, state: Mapping[str, Any]) -> Iterator[str]:
    """Checkpoints that Lightning would remove as older ones of its folder, though they are not in there."""
    folder, older = state.get("dirpath"), state.get("best_k_models")
    if folder is None and older is None:
        return
    if not isinstance(folder, str) or not isinstance(older, Mapping):
        yield f"{name} has no list of checkpoints"
        return
    paths = [*older, state.get("kth_best_model_path"), state.get("last_model_path"), state.get("best_model_path")]
    for path in paths:
        if not isinstance(path, str):
            yield f"{name} names {_shown(path)}, expected a file"
        elif _below(path, folder) and not _below(os.path.normpath(path), os.path.normpath(folder)):
            yield f"{name} names {path}, which is outside {folder}"


def _below(path: str, folder: str) -> bool:
    return Path(folder).absolute() in Path(path).absolute().parents


def _average(average: Mapping[str, Any], weights: Mapping[str, Any]) -> Iterator[str]:
    raw = average.get("raw_state_dict")
    if not isinstance(raw, Mapping) or raw.keys() != weights.keys():
        yield "ema.raw_state_dict does not have the names of the weights"
        return
    for name, tensor in raw.items():
        if not isinstance(tensor, torch.Tensor) or tensor.shape != weights[name].shape:
            shape = list(tensor.shape) if isinstance(tensor, torch.Tensor) else _shown(tensor)
            yield f"ema.raw_state_dict[{name!r}] has shape {shape}, the weight {list(weights[name].shape)}"
    for name in ("updates", "step"):
        if not _is_count(average.get(name)):
            yield f"ema.{name} is {_shown(average.get(name))}, expected a whole number"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST


def _expected(name: str, value: Any, kind: type) -> str:
    return f"{name} is {_shown(value)}, expected {_WORDS[kind]}"


def _shown(value: Any) -> str:
    plain = value is None or isinstance(value, int | float | str)
    return shown(value, 40) if plain else f"a {type(value).__name__}"
