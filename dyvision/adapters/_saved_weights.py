"""Weights as one safetensors file: tensors that have several names (shared kernels) are stored once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dyvision.backbones import read_state_dict
from dyvision.saving import write_tensors
from dyvision.text import one_line


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict, whole or not at all.

    A safetensors file has no shared memory: the other names of a tensor go into its metadata, as
    ``safetensors.torch.save_model`` does it.

    Raises:
        OSError: If it cannot be written.
    """
    kept: dict[str, Tensor] = {}
    first: dict[tuple[object, ...], str] = {}
    others: dict[str, str] = {}
    for name, tensor in state.items():
        # views of one memory at other places are tensors of their own, and are copied
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if place in first:
            others[name] = first[place]
            continue
        first[place] = name
        kept[name] = tensor.detach().cpu().contiguous()
    owned = {name: t.clone() if t.untyped_storage().nbytes() > t.nbytes else t for name, t in kept.items()}
    write_tensors(path, owned, others)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict that :func:`write_weights` wrote, all names included.

    Raises:
        ValueError: If the file is missing or damaged, or a value is not finite; names the file.
    """
    state = read_state_dict(path)
    try:
        with safe_open(path, "pt") as file:
            others = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights file {path} cannot be read ({one_line(error)}); expected .safetensors") from error
    stored = set(state)
    for name, of in others.items():
        if of in stored and name not in stored:
            state[name] = state[of]
    return state
