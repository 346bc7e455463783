"""Tensors by name from a file of any training script: the averaged weights first, however deep they lie."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dyvision.checkpoint_file import check_finite, is_dense, load_plain
from dyvision.file_kinds import check_file, is_safetensors
from dyvision.text import printable, some

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
    strange = [name for name, tensor in found.items() if not is_dense(tensor)]
    if strange:
        raise ValueError(
            f"{_named(source)}: {printable(some(strange, 3))} are no plain tensors (sparse, quantised or meta); save "
            "the state dict of the network in floating point"
        )
    found.made_with = made_with if isinstance(made_with, Mapping) else getattr(source, "made_with", {})
    if not isinstance(source, Mapping):
        check_finite(found, f"weights file {source}")
    if not found:
        names = [str(name) for name in content] if isinstance(content, Mapping) else [type(content).__name__]
        holds = f" (it holds {some(names, 3)})" if names else ""
        raise ValueError(f"{_named(source)} holds no tensors by name{holds}")
    return found


def _named(source: Source) -> str:
    return "the state dict" if isinstance(source, Mapping) else str(source)


def _read(path: Path) -> Any:
    if path.is_dir():
        raise ValueError(f"weights file {path} is a folder; give a file in it")
    if not path.is_file():
        raise ValueError(f"weights file {path} does not exist")
    try:
        check_file(path)
        if is_safetensors(path):
            return load_file(path)
        return load_plain(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights file {path} cannot be read ({error}); expected .safetensors") from error
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"weights file {path} cannot be read: {reason}") from error


def _network_in(content: Any, depth: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of the network in a checkpoint; none if there is no network."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return {}
    for container in _CONTAINERS:
        if isinstance(content.get(container), Mapping):
            found = _network_in(content[container], depth + 1)
            if _is_network(found):
                return found
    tensors = {name: value for name, value in content.items() if _is_weight(name, value)}
    inner = [
        _network_in(value, depth + 1)
        for name, value in content.items()
        if isinstance(name, str) and not name.lower().startswith(_NO_NETWORK)
    ]
    return max(
        [tensors, *filter(_is_network, inner)], key=lambda found: (_is_network(found), found is tensors, len(found))
    )


def _is_network(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether there is more than what lies beside a network: its step, the decay of an average."""
    return any(tensor.ndim for tensor in tensors.values())


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor)
