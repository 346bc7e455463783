"""Ranges of the hyperparameters that every task has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyvision.arguments import check_flag, check_number, check_numbers, shown


def check_shared_arguments(hparams: Mapping[str, Any]) -> None:
    """Check what does not depend on the task, before anything is built.

    Learning rate, optimiser and schedule are checked where they are built (``dyvision.tasks.optim``), names where they
    are looked up.

    Args:
        hparams: Hyperparameters of a task.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """
    check_number("in_chans", hparams["in_chans"], minimum=1, maximum=4096, integer=True)
    check_number("drop_path_rate", hparams["drop_path_rate"], minimum=0, below=1)
    check_number("num_classes", hparams["num_classes"], minimum=1, maximum=1_000_000, integer=True, allow_none=True)
    for name in ("backbone", "layer"):
        if not isinstance(hparams[name], str) or not hparams[name]:
            raise ValueError(f"{name}={shown(hparams[name])}: expected a name; see 'dyvision list {name}s'")
    for name in ("layer_kwargs", "backbone_kwargs"):
        value = hparams.get(name)
        if value is not None and (not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value)):
            raise ValueError(f"{name}={shown(value)}: expected a mapping from argument names to values")
    for name in ("channels_last", "freeze_norm"):
        if name in hparams:
            check_flag(name, hparams[name])
    annealing = hparams["anneal_temperature"]
    if not isinstance(annealing, (bool, Mapping)):
        raise ValueError(f"anneal_temperature={shown(annealing)}: expected true, false, or a mapping of arguments")
    _check_classes(hparams)


def _check_classes(hparams: Mapping[str, Any]) -> None:
    names, colors, ids = (hparams[name] for name in ("class_names", "class_colors", "class_ids"))
    if names is not None and (not isinstance(names, list) or not all(isinstance(name, str) for name in names)):
        raise ValueError(f"class_names={shown(names)}: expected a list of names")
    if ids is not None and ids != []:
        check_numbers("class_ids", ids, integer=True)
        if len(set(ids)) < len(ids):
            raise ValueError(f"class_ids={shown(ids)}: expected each number once")
    if colors is not None and not isinstance(colors, list):
        raise ValueError(f"class_colors={shown(colors)}: expected a list of [red, green, blue]")
    for position, color in enumerate(colors or ()):
        check_numbers(f"class_colors[{position}]", color, length=3, minimum=0, maximum=255, integer=True)
    count = hparams["num_classes"]
    for name, values in (("class_names", names), ("class_colors", colors), ("class_ids", ids)):
        if count is not None and values and len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for num_classes={count}")
