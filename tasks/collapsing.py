"""The static task that a dynamic one is collapsed into: the same hyperparameters, but for its layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dyvision.backbones import Backbone
from dyvision.tasks.base import BaseTask
from dyvision.text import some

#: what is of the layers among the hyperparameters, and what it is in a static network
_STATIC: dict[str, Any] = {"layer": "static", "layer_kwargs": None, "policy": None}
#: further arguments of a backbone that a static network has, too; the others are arguments of its layer
_KEPT = ("in_chans", "drop_rate", "drop_path_rate", "out_indices", "output_stride", "model_kwargs")


def static_task(task: BaseTask) -> BaseTask:
    """Build the task with ordinary convolutions instead of dynamic ones; its weights are random.

    Args:
        task: A task whose number of classes is known.
    """
    given = task.hparams.get("backbone_kwargs") or {}
    kept = {name: value for name, value in given.items() if name in _KEPT}
    start = {"pretrained": False, "backbone_weights": None, "backbone_kwargs": kept or None}
    changed = {name: value for name, value in {**_STATIC, **start}.items() if name in task.hparams}
    return type(task)(**{**task.hparams, **changed})


def take_network(static: BaseTask, collapsed: nn.Module) -> None:
    """Give a static task the weights of a collapsed network.

    Args:
        static: As :func:`static_task` builds it.
        collapsed: The task's dynamic network after :func:`dyvision.collapse`.

    Raises:
        ValueError: If the collapsed network is another one: kernels of SK are larger, those of a grouped DCD dense.
    """
    found, expected = collapsed.state_dict(), static.built_network.state_dict()
    differing = [f"{name} ({_shape(found, name)}, not {_shape(expected, name)})" for name in {**expected, **found}
                 if _shape(found, name) != _shape(expected, name)]  # fmt: skip
    if differing:
        backbone = static.hparams.backbone
        raise ValueError(
            f"the collapsed network is not the static {backbone}, so no checkpoint with layer: static can hold it: "
            f"{len(differing)} tensors differ, {some(differing, 2)}; dyvision.collapse in Python returns it as a module"
        )
    static.built_network.load_state_dict(found)


def plain_weights(task: BaseTask) -> dict[str, Tensor]:
    """The weights of the classifier, or of the backbone without heads, by the names that timm has for them."""
    network = task.backbone_network
    body = network.body if isinstance(network, Backbone) else network
    return {name: tensor.contiguous() for name, tensor in body.state_dict().items()}


def _shape(state: dict[str, Tensor], name: str) -> str:
    return "x".join(map(str, state[name].shape)) or "a number" if name in state else "missing"
