"""What a checkpoint of another architecture was made with, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyvision.tasks.transfer import compare_weights

#: hyperparameters that decide which tensors a checkpoint has, in the order in which a message names them
_ARCHITECTURE = (
    *("backbone", "layer", "layer_kwargs", "policy", "backbone_kwargs", "head", "aux_head"),
    *("num_classes", "in_chans", "output_stride"),
)


def describe_misfit(
    model: Any, where: str, task: str | None, made: Mapping[str, Any], weights: Mapping[str, Any]
) -> str:
    """Why the weights of a checkpoint are not those of a task, in one sentence.

    Args:
        model: The task.
        where: The checkpoint, for the message.
        task: Name of the checkpoint's task.
        made: Its hyperparameters.
        weights: Its tensors by name.
    """
    if task != model.task:
        what = f"it is one of task {task!r}, this is {model.task!r}"
    else:
        names = [name for name in _ARCHITECTURE if made.get(name) != model.hparams.get(name)]
        listed = [f"{name}={made.get(name)!r} and not {model.hparams.get(name)!r}" for name in names]
        if not listed:
            return (
                f"{where} {compare_weights(weights, model.state_dict())}: not those of the network that "
                "it describes. Use another checkpoint; weights of other programs are for --model.backbone_weights"
            )
        what = f"it was made with {', '.join(listed)}"
    right = type(model).__name__ if task in (None, model.task) else class_of(str(task))
    hint = f", or use {right}.load_from_checkpoint, which takes them from the checkpoint" if right else ""
    return f"the checkpoint has another architecture: {what}. Give the same arguments{hint}"


def class_of(task: str) -> str | None:
    """Name of the class of a task of ours, as far as there is one."""
    return f"{task.capitalize()}Task" if task in ("classification", "segmentation", "detection") else None
