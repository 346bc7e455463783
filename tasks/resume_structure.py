"""Whether a checkpoint's optimisers and schedules have the structure of the run's: compared before they are restored.

``load_state_dict`` of both takes over whatever there is: a text for a step, a weight decay that no constructor accepts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dyvision.arguments import shown
from dyvision.tasks.components import accepted_arguments
from dyvision.tasks.fused import IMPLEMENTATION
from dyvision.tasks.optim import check_ranges
from dyvision.tasks.resume_state import MOST, refuse
from dyvision.text import one_line

#: what versions of torch keep of a schedule or do not
_VERSIONS = ("_is_initial", "_get_lr_called_within_step", "verbose")
_COUNTERS = ("last_epoch", "_step_count")
#: what every schedule has; others may keep what grows
_COMMON = (*_COUNTERS, "base_lrs", "_last_lr")
#: of the optimisers of torch.optim: sums of squares, and counters
_NOT_NEGATIVE = frozenset(
    {
        *("step", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum"),
        *("row_var", "col_var", "variance", "step_size", "eta", "mu", "mu_product"),
    }
)
_HIGHEST_RATE = 1000


def check_restorable(
    stored: Mapping[str, Sequence[Mapping[str, Any]]],
    optimizers: Sequence[Optimizer],
    schedules: Sequence[Any],
    names: Mapping[nn.Parameter, str],
    where: str,
) -> None:
    """Compare the stored states with the optimisers and schedules that were just built.

    Args:
        stored: ``optimizer_states`` and ``lr_schedulers`` of the checkpoint, lists of mappings.
        optimizers: The run's optimisers.
        schedules: Its schedules.
        names: Name of each parameter.
        where: The file, for messages.

    Raises:
        ValueError: If there are others in number, if a value is missing, of another type, not finite or none that the
            constructor accepts, or if the state of a parameter is not of its shape.
    """
    for key, built in (("optimizer_states", optimizers), ("lr_schedulers", schedules)):
        if len(stored[key]) != len(built):
            refuse(where, f"it has {len(stored[key])} {key} for {len(built)} of the task")
    for number, (state, optimizer) in enumerate(zip(stored["optimizer_states"], optimizers, strict=True)):
        for problem in _of_optimizer(f"optimizer_states[{number}]", state, optimizer, names):
            refuse(where, problem)
    for number, (state, schedule) in enumerate(zip(stored["lr_schedulers"], schedules, strict=True)):
        for problem in _of_schedule(f"lr_schedulers[{number}]", state, schedule):
            refuse(where, problem)


def _of_optimizer(
    name: str, state: Mapping[str, Any], optimizer: Optimizer, names: Mapping[nn.Parameter, str]
) -> Iterator[str]:
    groups = optimizer.param_groups
    seen: set[int] = set()
    for index, (stored, group) in enumerate(zip(state["param_groups"], groups, strict=False)):
        here = f"{name}.param_groups[{index}]"
        keys = stored.get("params")
        if not isinstance(keys, list) or len(keys) != len(group["params"]):
            known = len(keys) if isinstance(keys, list) else "no"
            yield f"{here} has {known} parameters, the task has {len(group['params'])}"
        elif not all(type(key) is int for key in keys) or len(set(keys)) < len(keys) or seen & set(keys):
            yield f"{here}.params is {shown(keys)}, expected each parameter's number once"
        else:
            seen |= set(keys)
            yield from _of_group(here, stored, group, optimizer)
            parts: dict[int, dict[str, Any] | None] = {}
            for key, parameter in zip(keys, group["params"], strict=True):
                kept = state["state"].get(key)
                if kept:
                    if parameter.ndim not in parts:
                        parts[parameter.ndim] = _parts(optimizer, group, parameter.ndim)
                    of = f"of {names.get(parameter, 'a parameter')} ({name}.state[{key}])"
                    yield from _of_parameter(of, kept, parts[parameter.ndim], parameter)
    if len(state["param_groups"]) != len(groups):
        yield f"{name} has {len(state['param_groups'])} groups of parameters, the task has {len(groups)}"


def _of_group(name: str, stored: Mapping[str, Any], group: Mapping[str, Any], optimizer: Optimizer) -> Iterator[str]:
    for key, built in group.items():
        if key == "params":
            continue
        if key not in stored:
            # torch completes what an earlier version did not have; that is switches only
            if built is not None and not isinstance(built, bool):
                yield f"{name} has no {key}, expected one such as {shown(_plain(built))}"
        elif key in IMPLEMENTATION:  # another machine may compute otherwise
            if not isinstance(stored[key], bool | None):
                yield f"{name}.{key} is {shown(stored[key])}, expected true, false or null"
        elif isinstance(built, bool | str) or built is None:
            # others may keep in a group what changes
            same = type(stored[key]) is type(built) and stored[key] == built
            if not same and _is_torchs(optimizer):
                yield f"{name}.{key} is {shown(stored[key])}, expected {shown(built)} as the task's optimizer has it"
        else:
            yield from _of_value(f"{name}.{key}", key, stored[key], built)
    accepted, _ = accepted_arguments(type(optimizer))
    arguments = {key: stored[key] for key in group if key in accepted and key in stored and key != "params"}
    try:
        if _is_torchs(optimizer):
            check_ranges({key: _plain(value) for key, value in arguments.items()}, name)
        like = group["params"][0]
        type(optimizer)([nn.Parameter(torch.zeros([1] * like.ndim, device=like.device))], **arguments)
    # a constructor refuses in its own way
    except Exception as error:
        reason = one_line(error)[:160]
        yield reason if reason.startswith(name) else f"{name} is not one of {type(optimizer).__name__}: {reason}"


def _parts(optimizer: Optimizer, group: Mapping[str, Any], ndim: int) -> dict[str, Any] | None:
    """What an optimiser of torch keeps of a parameter, from a step of its own with one of 2 x 3 x 4 x ... zeros."""
    if not _is_torchs(optimizer):
        return None
    accepted, _ = accepted_arguments(type(optimizer))
    arguments = {key: value for key, value in group.items() if key in accepted and key != "params"}
    parameter = nn.Parameter(torch.zeros(tuple(range(2, 2 + ndim))))
    parameter.grad = torch.zeros_like(parameter)
    try:
        probe = type(optimizer)([parameter], **arguments)
        probe.step()
    # of a sparse gradient only, with a closure, or on a GPU only
    except Exception:
        return None
    return dict(probe.state[parameter])


def _of_parameter(
    of: str, kept: Mapping[str, Any], parts: Mapping[str, Any] | None, parameter: nn.Parameter
) -> Iterator[str]:
    if parts is None:
        return
    for part, like in parts.items():
        what, value = f"the optimiser's {part} {of}", kept.get(part)
        if not isinstance(like, Tensor | int | float):
            continue
        if value is None:
            yield f"{what} is missing"
            continue
        single = not isinstance(like, Tensor) or like.ndim == 0
        if not isinstance(value, Tensor) and not (single and type(value) in (int, float)):
            yield f"{what} is {shown(value)}, expected a {'number' if single else 'tensor'}"
            continue
        stored = torch.as_tensor(value)
        wanted = _shape(like, parameter) if isinstance(like, Tensor) else ()
        if wanted is not None and tuple(stored.shape) != wanted:
            yield f"{what} has shape {list(stored.shape)}, the parameter {list(wanted)}"
        elif not single and not stored.is_floating_point():
            yield f"{what} holds {stored.dtype}, expected floating-point numbers"
        elif stored.dtype == torch.bool or stored.is_complex() or not bool(torch.isfinite(stored).all()):
            yield f"{what} is {shown(value) if stored.ndim == 0 else 'not finite'}, expected finite numbers"
        elif part in _NOT_NEGATIVE and stored.numel() and float(stored.min()) < 0:
            yield f"{what} is {float(stored.min()):g}, expected at least 0"
        elif part == "step" and float(stored.max()) > MOST:
            yield f"{what} is {float(stored.max()):g}, expected the number of a step"


def _shape(like: Tensor, parameter: nn.Parameter) -> tuple[int, ...] | None:
    """The shape for this parameter of what has that of ``like`` for one of 2 x 3 x 4 x ...; None if it is unclear."""
    if any(size - 2 >= parameter.ndim for size in like.shape):
        return None
    return tuple(parameter.shape[size - 2] if size >= 2 else size for size in like.shape)


def _of_schedule(name: str, state: Mapping[str, Any], schedule: Any) -> Iterator[str]:
    built = schedule.state_dict()
    for key in state:
        # everything is taken over as an attribute, in place of methods and of the optimiser too
        other = hasattr(schedule, str(key)) or (_is_torchs(schedule) and not str(key).startswith("_"))
        if key not in built and key not in _VERSIONS and other:
            yield f"{name}.{key} is not a value of a schedule ({type(schedule).__name__} has {', '.join(built)})"
    if not _is_torchs(schedule):
        built = {key: value for key, value in built.items() if key in _COMMON}
    yield from _of_mapping(name, state, built)


def _of_mapping(name: str, stored: Mapping[str, Any], built: Mapping[str, Any]) -> Iterator[str]:
    if not all(isinstance(key, str) for key in built):  # milestones: what counts is that they are numbers
        for key, value in stored.items():
            if not (isinstance(key, int | float) and _is_number(value) and key >= 0):
                yield f"{name} has {shown({key: value})}, expected whole numbers"
        return
    for key, value in built.items():
        if key in stored:
            yield from _of_value(f"{name}.{key}", key, stored[key], value)
        elif key not in _VERSIONS:
            yield f"{name} has no {key}, expected one such as {shown(value)}"


def _of_value(name: str, key: str, stored: Any, built: Any) -> Iterator[str]:
    """Compare one value with that of the object just built."""
    if key in _VERSIONS or (built is not None and not isinstance(built, _KINDS)):
        return  # objects: nothing in a checkpoint of plain values can be one
    if isinstance(built, Tensor) and built.ndim == 0:
        built = built.item()
    if isinstance(built, Mapping):
        if isinstance(stored, Mapping):
            yield from _of_mapping(name, stored, built)
        else:
            yield f"{name} is {shown(stored)}, expected a mapping"
    elif isinstance(built, list | tuple):
        if not isinstance(stored, list | tuple) or len(stored) != len(built):
            yield f"{name} is {shown(stored)}, expected {len(built)} values such as {shown(built)}"
        else:
            for index, (one, other) in enumerate(zip(stored, built, strict=True)):
                yield from _of_value(f"{name}[{index}]", key, one, other)
    elif _is_number(built):
        yield from _of_number(name, key, _plain(stored), built)
    elif built is None:
        if stored is not None and not (_is_number(stored) and _is_finite(stored)):
            yield f"{name} is {shown(stored)}, expected null or a number"
    elif type(stored) is not type(built) or (isinstance(built, str) and stored != built):
        yield f"{name} is {shown(stored)}, expected {shown(built)}"


_KINDS = (bool, int, float, str, list, tuple, Mapping, Tensor)


def _of_number(name: str, key: str, stored: Any, built: float) -> Iterator[str]:
    if key in _COUNTERS:
        lowest = min(0, int(built))  # a schedule that follows another one has not begun
        if type(stored) is not int or not lowest <= stored < MOST:
            yield f"{name} is {shown(stored)}, expected a whole number of at least {lowest}"
    elif not _is_number(stored) or (math.isfinite(built) and not _is_finite(stored)) or stored != stored:
        yield f"{name} is {shown(stored)}, expected a finite number such as {shown(built)}"
    elif math.isfinite(built) and built >= 0 > stored:
        yield f"{name} is {shown(stored)}, expected at least 0"
    elif type(built) is int and built > 0 and stored <= 0:
        yield f"{name} is {shown(stored)}, expected more than 0"
    elif "lr" in key and stored > _HIGHEST_RATE and math.isfinite(built):
        yield f"{name} is {shown(stored)}, expected at most {_HIGHEST_RATE}"


def _plain(value: Any) -> Any:
    """A tensor of one number as that number."""
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _is_torchs(built: Any) -> bool:
    return type(built).__module__.partition(".")[0] == "torch"
