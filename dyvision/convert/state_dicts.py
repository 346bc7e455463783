"""Tensors by name from a file of any training script: the averaged weights first, however deep they lie."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dyvision.checkpoint_file import check_finite, load_plain
from dyvision.text import some

Source = Mapping[str, torch.Tensor] | str | PathLike[str]

#: where training scripts put the network in a checkpoint; averaged weights first, as timm prefers them
_CONTAINERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "params", "weights", "module"),
    "backbone",
)
#: what is a state, but not of a network
_NO_NETWORK = ("optimizer", "optim", "scheduler", "lr_sched", "scaler", "callbacks", "loops", "hyper_parameters")
#: how deep a state dict may lie
_DEPTH = 4


class StateDict(dict[str, torch.Tensor]):
    """Tensors by name, and what the file says of the network.

    Attributes:
        made_with: The hyperparameters of a checkpoint (``backbone``, ``layer``); empty for other files.
    """

    made_with: Mapping[str, Any]


def read_state_dict(source: Source) -> StateDict:
    """Tensors by name from a mapping or a file.

    Args:
        source: A state dict, a checkpoint of any training script (the weights may lie some levels deep, under any
            name), or a path: ``.safetensors``, or anything ``torch.load(weights_only=True)`` reads.

    Raises:
        ValueError: If the file does not exist, cannot be read safely, or holds no tensors.
    """
    content = source if isinstance(source, Mapping) else _read(Path(source).expanduser())
    found = StateDict(_network_in(content))
    made_with = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    found.made_with = made_with if isinstance(made_with, Mapping) else getattr(source, "made_with", {})
    if not isinstance(source, Mapping):
        check_finite(found, f"weights file {source}")
    if not found:
        names = [str(name) for name in content] if isinstance(content, Mapping) else [type(content).__name__]
        holds = f" (it holds {some(names, 3)})" if names else ""
        raise ValueError(
            f"{'the state dict' if isinstance(source, Mapping) else source} holds no tensors by name{holds}"
        )
    return found


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"weights file {path} does not exist")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"weights file {path} cannot be read ({error}); expected .safetensors") from error
    try:
        return load_plain(path)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"weights file {path} cannot be read: {reason}") from error


def _network_in(content: Any, depth: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of the network in a checkpoint; none if there is no network."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return {}
    for container in _CONTAINERS:
        if isinstance(content.get(container), Mapping) and (found := _network_in(content[container], depth + 1)):
            return found
    tensors = {name: value for name, value in content.items() if _is_weight(name, value)}
    if tensors:
        return tensors
    inner = [
        _network_in(value, depth + 1)
        for name, value in content.items()
        if isinstance(name, str) and not name.lower().startswith(_NO_NETWORK)
    ]
    return max(inner, key=len, default={})


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor)
