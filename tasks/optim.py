"""Optimisers, parameter groups and learning-rate schedules by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from dyvision.arguments import check_flag, check_number, check_numbers, shown
from dyvision.layers import CoefficientBranch
from dyvision.tasks.components import accepted_arguments, check_arguments, choose, import_object, parse_component
from dyvision.tasks.fused import IMPLEMENTATION, implementation
from dyvision.text import one_line

#: arguments that differ from torch.optim's defaults, because nobody in this field uses those
_DEFAULTS: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}}
_FACTOR: dict[str, Any] = {"minimum": 0, "maximum": 1000}
_BELOW_ONE: dict[str, Any] = {"minimum": 0, "below": 1}
#: ranges of what the optimisers of torch.optim call so; torch itself checks some of them, with messages of its own
_RANGES: dict[str, dict[str, Any]] = {
    "lr": _FACTOR,
    "weight_decay": _FACTOR,
    "momentum": _BELOW_ONE,
    "dampening": {"minimum": 0, "maximum": 1},
    "alpha": _BELOW_ONE,
    "rho": {"minimum": 0, "maximum": 1},
    "eps": {"minimum": 0, "maximum": 1},
}
_FLAGS = ("amsgrad", "nesterov", "maximize", "decoupled_weight_decay", "centered", "capturable", "differentiable")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def parameter_groups(
    model: nn.Module, backbone: list[nn.Parameter], hparams: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Split trainable parameters into backbone and head, with and without weight decay.

    Norms, biases (every parameter of at most one dimension, and a dynamic layer's stacked ones, named ``bias``) and
    coefficient branches get no weight decay.

    Args:
        model: The whole network.
        backbone: The parameters that ``backbone_lr_scale`` is meant for; ``head_lr_scale`` is for all others.
        hparams: With ``lr``, ``weight_decay``, ``backbone_lr_scale`` and ``head_lr_scale``.

    Returns:
        Up to four groups for the optimiser, each with a ``name`` (``backbone``, ``backbone_no_decay``, ``head``, ...).
    """
    in_backbone = {id(parameter) for parameter in backbone}
    exempt: set[int] = set()
    for module in model.modules():
        if isinstance(module, CoefficientBranch):
            exempt |= {id(parameter) for parameter in module.parameters()}
        elif isinstance(module, _NORMS) or "norm" in type(module).__name__.lower():
            # not its children's: timm has a ConvNormAct
            exempt |= {id(parameter) for parameter in module.parameters(recurse=False)}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "backbone" if id(parameter) in in_backbone else "head"
        decay = parameter.ndim > 1 and name.rpartition(".")[2] != "bias" and id(parameter) not in exempt
        key = part if decay else f"{part}_no_decay"
        group = groups.setdefault(
            key,
            {
                "name": key,
                "params": [],
                "lr": hparams["lr"] * hparams[f"{part}_lr_scale"],
                "weight_decay": hparams["weight_decay"] if decay else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(hparams: Mapping[str, Any], groups: list[dict[str, Any]], sparse: bool = False) -> Optimizer:
    """Build the optimiser of ``hparams["optimizer"]``.

    Args:
        hparams: With ``optimizer`` (a name of ``torch.optim`` in any case, or a dict with arguments), ``lr`` and
            ``weight_decay``.
        groups: Parameter groups.
        sparse: Whether some gradients are sparse.

    Raises:
        ValueError: For an unknown name or argument, or a value the optimiser does not take.
    """
    for name in ("lr", "weight_decay", "backbone_lr_scale", "head_lr_scale"):
        check_number(name, hparams[name], **_FACTOR)
    component = parse_component(hparams["optimizer"], "optimizer", types=False)
    if component.kind == "class_path":
        optimizer_class: Any = import_object(component.name, "optimizer", Optimizer)
    else:
        classes = {
            name.lower(): value
            for name, value in vars(torch.optim).items()
            if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
        }
        optimizer_class = classes[choose(component.name.lower(), classes, "optimizer")]
    defaults = {
        "lr": hparams["lr"],
        "weight_decay": hparams["weight_decay"],
        **_DEFAULTS.get(component.name.lower(), {}),
    }
    names, anything = accepted_arguments(optimizer_class)
    arguments = {name: value for name, value in defaults.items() if anything or name in names} | component.arguments
    check_arguments(optimizer_class, arguments, f"optimizer {component.name!r}")
    if component.kind == "name":
        check_ranges(component.arguments, f"optimizer {component.name!r}")
    if "weight_decay" not in arguments:
        groups = [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups]
    # an argument of the optimiser's own dict beats the general one, in the groups too
    for group in groups:
        if "lr" in component.arguments and "lr" in group:
            group["lr"] *= component.arguments["lr"] / hparams["lr"] if hparams["lr"] else 0.0
        if "weight_decay" in component.arguments and group.get("weight_decay"):
            group["weight_decay"] = component.arguments["weight_decay"]
    parameters = (parameter for group in groups for parameter in group["params"])
    arguments |= implementation(optimizer_class, component.arguments, names, parameters, sparse)
    try:
        return optimizer_class(groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optimizer {component.name!r}: {error}") from error


def check_ranges(arguments: Mapping[str, Any], what: str) -> None:
    """Check values by the names that the optimisers of torch.optim give them.

    Args:
        arguments: Values by name; names that are not known here are left alone.
        what: Whose they are, for the message.

    Raises:
        ValueError: If one is out of range.
    """
    for name, value in arguments.items():
        # Adafactor has two eps
        if name in _RANGES and not isinstance(value, list | tuple):
            check_number(f"{what}: {name}", value, **_RANGES[name])
        elif name == "betas":
            check_numbers(f"{what}: {name}", value, length=2, **_BELOW_ONE)
        elif name in _FLAGS or (name in IMPLEMENTATION and value is not None):  # torch chooses where they are null
            check_flag(f"{what}: {name}", value)


def _cosine(total: int, min_ratio: float = 0.0) -> Callable[[float], float]:
    """Half a cosine from 1 to ``min_ratio`` (Loshchilov and Hutter 2017, arXiv 1608.03983, Eq. 5)."""
    check_number("lr_schedule 'cosine': min_ratio", min_ratio, minimum=0, maximum=1)
    return lambda step: min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * step / total))


def _poly(total: int, power: float = 0.9, min_ratio: float = 0.0) -> Callable[[float], float]:
    """``(1 - step / total) ** power`` (DeepLab, arXiv 1606.00915, section 4.1), from 1 to ``min_ratio``."""
    check_number("lr_schedule 'poly': min_ratio", min_ratio, minimum=0, maximum=1)
    check_number("lr_schedule 'poly': power", power, above=0, maximum=100)
    return lambda step: min_ratio + (1 - min_ratio) * (1 - step / total) ** power


def _multistep(total: int, milestones: list[float] | None = None, gamma: float = 0.1) -> Callable[[float], float]:
    """Multiply by ``gamma`` at each milestone: a step, or a fraction of training if below 1 (COCO 1x: 8/12, 11/12)."""
    what = "lr_schedule 'multistep':"
    check_number(f"{what} gamma", gamma, above=0, maximum=10)
    check_numbers(f"{what} milestones", milestones, above=0, allow_none=True)
    given = milestones or [8 / 12, 11 / 12]
    steps = [value * total if value < 1 else value for value in given]
    if steps != sorted(set(steps)):
        raise ValueError(f"{what} milestones={list(given)}: expected each to be larger than the one before")
    return lambda step: gamma ** sum(step >= milestone for milestone in steps)


def _constant(total: int) -> Callable[[float], float]:
    """1 throughout."""
    return lambda step: 1.0


_SCHEDULES: dict[str, Callable[..., Callable[[float], float]]] = {
    "constant": _constant,
    "cosine": _cosine,
    "multistep": _multistep,
    "poly": _poly,
}


#: the longest published training has fewer steps than this
_LONGEST_WARMUP = 100_000_000


def warmup_length(warmup_steps: float, total_steps: float) -> int:
    """Steps of warm-up: ``warmup_steps`` itself, or that fraction of ``total_steps`` if it is a float below 1.

    Raises:
        ValueError: If it is negative or neither a fraction nor a whole number.
    """
    check_number("warmup_steps", warmup_steps, minimum=0, maximum=_LONGEST_WARMUP)
    if warmup_steps > 1 and warmup_steps % 1:
        raise ValueError(f"warmup_steps={warmup_steps!r}: expected a number of steps, or a fraction below 1")
    if 0 < warmup_steps < 1:
        return round(warmup_steps * total_steps) if total_steps < math.inf else 0
    return int(warmup_steps)


def _schedule_of_class(scheduler_class: Any, optimizer: Optimizer, arguments: Mapping[str, Any], steps: int = 0) -> Any:
    try:
        schedule = scheduler_class(optimizer, **arguments)
        for _ in range(steps):
            schedule.step(*([1.0] if isinstance(schedule, ReduceLROnPlateau) else []))
        return schedule
    # a schedule takes its first step here: a text in place of a function or of a number shows in any way
    except Exception as error:
        reason = one_line(error)
        needs = [name for name, value in arguments.items() if isinstance(value, str) and "not callable" in reason]
        hint = f"; {needs[0]} is a function, which no configuration holds: choose another schedule" if needs else ""
        raise ValueError(f"lr_schedule {scheduler_class.__name__!r}: {reason}{hint}") from error


def _check_schedule(scheduler_class: Any, arguments: Mapping[str, Any], hparams: Mapping[str, Any]) -> None:
    """Try a schedule on a throwaway optimiser; arguments may have a value for each of its up to 4 groups."""
    problem: ValueError | None = None
    for number in range(1, 5):
        groups = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(number)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no optimiser takes these steps
                _schedule_of_class(scheduler_class, build_optimizer(hparams, groups), arguments, steps=2)
            return
        except ValueError as error:
            problem = problem or error
    if problem is not None:
        raise problem


def build_schedule(hparams: Mapping[str, Any], optimizer: Optimizer | None, total_steps: float) -> dict[str, Any]:
    """Build the learning-rate schedule of ``hparams["lr_schedule"]``, which advances every step.

    During warm-up, step t (from 0) has (t + 1) / warmup_steps of the learning rate; the schedule proper starts behind
    it. The milestones of ``multistep`` count from the start of training.

    Args:
        hparams: With ``lr_schedule`` (a name or a dict with arguments) and ``warmup_steps``. ``total_steps`` among the
            arguments fixes the length whatever the trainer is told, so that a run may stop earlier and go on later.
        optimizer: What to schedule; None only checks the arguments.
        total_steps: Optimiser steps in the whole training.

    Returns:
        A ``lr_scheduler`` configuration for Lightning.

    Raises:
        ValueError: For an unknown name or argument, or a schedule that needs an end and training has none.
    """
    component = parse_component(hparams["lr_schedule"], "lr_schedule", types=False)
    if component.kind == "name" and "total_steps" in component.arguments:
        total_steps = component.arguments.pop("total_steps")
        check_number("lr_schedule: total_steps", total_steps, minimum=1, integer=True)
    warmup = warmup_length(hparams["warmup_steps"], total_steps)
    if component.kind == "class_path":
        scheduler_class: Any = import_object(component.name, "lr_schedule", LRScheduler)
        arguments = dict(component.arguments)
        interval = arguments.pop("interval", "step")
        check_arguments(scheduler_class, arguments, f"lr_schedule {component.name!r}")
        if warmup:
            raise ValueError("warmup_steps works with the named schedules; give lr_schedule's class its own warm-up")
        if interval not in ("step", "epoch"):
            raise ValueError(f"lr_schedule: interval={shown(interval)}: expected 'step' or 'epoch'")
        if optimizer is None:
            _check_schedule(scheduler_class, arguments, hparams)
            return {"scheduler": None, "interval": interval}
        return {"scheduler": _schedule_of_class(scheduler_class, optimizer, arguments), "interval": interval}
    shape = _SCHEDULES[choose(component.name, _SCHEDULES, "lr_schedule")]
    check_arguments(shape, component.arguments, f"lr_schedule {component.name!r}")
    if total_steps == math.inf and component.name != "constant":
        raise ValueError(f"lr_schedule={component.name!r} needs an end: set trainer.max_epochs or trainer.max_steps")
    if optimizer is not None and warmup > total_steps:
        warnings.warn(
            f"warmup_steps={warmup:,} is longer than the run of {int(total_steps):,} steps, which ends at "
            f"{total_steps / warmup:.2g} of lr; give fewer, or a fraction of the run such as 0.05",
            stacklevel=2,
        )
    offset = 0 if component.name == "multistep" else warmup
    length = max(1, int(total_steps) - offset) if total_steps < math.inf else 1
    factor = shape(length, **component.arguments)

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup * (factor(step) if offset == 0 else 1.0)
        # behind the end (an extra call after the last step) the value of the end
        return factor(min(step - offset, length) if total_steps < math.inf else step)

    return {"scheduler": optimizer and LambdaLR(optimizer, at), "interval": "step"}
