"""Weights of official networks, name by name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.backbones.weights import read_state_dict
from dyvision.checkpoints.interface import fit
from dyvision.checkpoints.methods import condconv, dcd, dgc, dyconv, kernelwarehouse, odconv, timm, weightnet
from dyvision.checkpoints.network_names import module_names, warehouse_layers
from dyvision.layers import DynamicConv2d
from dyvision.tensor_kinds import check_kinds
from dyvision.text import did_you_mean

#: what translates one tensor of one layer; WeightNet's translates a network's
_TRANSLATE: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "condconv": condconv.layer_state,
    "dcd": dcd.conv_state,
    "dgc": dgc.layer_state,
    "dyconv": dyconv.layer_state,
    "kernelwarehouse": kernelwarehouse.layer_state,
    "odconv": odconv.layer_state,
    "timm": timm.layer_state,
    "weightnet": weightnet.layer_state,
}
SOURCES = tuple(_TRANSLATE)
#: names that only one source has
_MARKS = (
    ("kernelwarehouse", r"warehouse_manager\."),
    ("odconv", r"\.attention\.channel_fc\."),
    ("dyconv", r"\.attention\.fc2\."),
    ("dcd", r"\.fc_phi\."),
    ("dgc", r"\.headconv_0\."),
    ("condconv", r"\broute\.fc\."),
    ("weightnet", r"\.wn_fc1\."),
    ("timm", r"\.routing_fn\."),
)
#: names of each kind that an error message shows
_SHOWN = 8
#: what wrappers put before all names
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_WAREHOUSE = "warehouse_manager.weights."
#: what ours save and the official ones do not: schedules, and counters that old files and MegEngine's lack
_OURS_ALONE = ("temperature", "mixing", "num_batches_tracked")


@dataclass(frozen=True)
class OfficialReport:
    """What :func:`load_official` did; prints as a table.

    Attributes:
        source: Whose names the weights had.
        mapped: Pairs of an official name and ours, in the order of the official state dict. A warehouse has one name
            there and several here: one per layer that shares it.
        kept: Our names that official weights do not have; they keep their values (temperatures, mixing factors,
            counters).
    """

    source: str
    mapped: tuple[tuple[str, str], ...]
    kept: tuple[str, ...]

    def table(self) -> str:
        """The names in two columns, the official ones left."""
        width = max([len(self.source), *(len(official) for official, _ in self.mapped)])
        rows = [f"{self.source:<{width}}  dyvision", *(f"{theirs:<{width}}  {ours}" for theirs, ours in self.mapped)]
        rows += [f"{'(kept)':<{width}}  {name}" for name in self.kept]
        return "\n".join(rows)

    def __str__(self) -> str:
        return self.table()


def load_official(
    model: nn.Module, source_weights: Mapping[str, Any] | str | PathLike[str], source: str
) -> OfficialReport:
    """Load the weights of an official network into ours; every tensor has to find its place.

    Args:
        model: Our network, in the published setting; :mod:`dyvision.checkpoints` lists what to create. Filled in place.
        source_weights: A state dict (also of numpy arrays, as MegEngine has them), or a file: ``.safetensors`` or what
            ``torch.load(weights_only=True)`` reads. ``{"state_dict": ...}`` and names with ``module.`` are unwrapped.
        source: Whose names: ``"condconv"`` (d-li14/condconv.pytorch), ``"dcd"`` (liyunsheng13/dcd), ``"dgc"``
            (hellozhuo/dgc), ``"dyconv"`` (kaijieshi7/Dynamic-convolution-Pytorch), ``"kernelwarehouse"`` and
            ``"odconv"`` (OSVAI), ``"timm"``, or ``"weightnet"`` (megvii-model/WeightNet).

    Returns:
        Every official name and ours.

    Raises:
        ValueError: If the source is unknown, the file cannot be read, names are missing, unexpected or of another
            shape (the first of each are listed), or hold another kind of numbers; nothing is loaded then.

    Example:
        >>> import dyvision
        >>> from dyvision.checkpoints import load_official
        >>> model = dyvision.create_model("mobilenetv2_035", layer="dcd", dynamic_classifier=True)
        >>> report = load_official(model, "dcd_mobilenetv2_035.pth", source="dcd")
    """
    check_source(source)
    state = read_official(source_weights)
    if source == "dyconv":
        state = dyconv.with_bias(state)
    target = model.state_dict()
    tensors: dict[str, Tensor] = {}
    mapped: list[tuple[str, str]] = []
    unexpected, reshaped = [], []
    for official, names, tensor in _translate(model, state, source):
        for name in names:
            if name not in target:
                unexpected.append(official if official == name else f"{official} (here {name})")
                continue
            fitted = fit(tensor, tuple(target[name].shape))
            if fitted.shape != target[name].shape:
                reshaped.append(f"{official} {list(tensor.shape)}, here {name} {list(target[name].shape)}")
            if name in tensors:
                unexpected.append(f"{official} (a second one for {name})")
            tensors[name] = fitted
            mapped.append((official, name))
    absent = [name for name in target if name not in tensors]
    kept = [name for name in absent if name.rpartition(".")[2] in _OURS_ALONE]
    missing = [name for name in absent if name not in set(kept)]
    if missing or unexpected or reshaped:
        raise ValueError(_misfit(source, missing, unexpected, reshaped, guess_source(state)))
    where = "the given state dict" if isinstance(source_weights, Mapping) else str(source_weights)
    check_kinds(tensors, target, where)
    model.load_state_dict(tensors, strict=False)
    return OfficialReport(source, tuple(mapped), tuple(kept))


def translate_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Translate tensors with official names, parameters or their gradients, to our names and shapes.

    Args:
        model: Our network.
        state: Any part of an official state dict, or gradients under its names.
        source: See :func:`load_official`.

    Returns:
        The tensors by our names; what has no counterpart keeps the name that the rest of its module would give it.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        name: fit(tensor, shapes.get(name, tuple(tensor.shape)))
        for _, names, tensor in _translate(model, state, source)
        for name in names
    }


def read_official(source_weights: Mapping[str, Any] | str | PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from an official state dict or file, unwrapped.

    Raises:
        ValueError: If the file does not exist, cannot be read safely, or holds no tensors.
    """
    if isinstance(source_weights, Mapping):
        arrays: dict[str, Any] = {
            name: value if isinstance(value, (Tensor, Mapping)) else torch.as_tensor(value)
            for name, value in source_weights.items()
            if isinstance(value, (Tensor, Mapping)) or hasattr(value, "__array__")
        }
        state: dict[str, Tensor] = read_state_dict(arrays)
    else:
        # training scripts save their options beside the weights: a plain record, safe to read
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = read_state_dict(source_weights)
    state.pop("n_averaged", None)  # torch's averaged models count in it
    while prefix := next((wrapper for wrapper in _WRAPPERS if all(name.startswith(wrapper) for name in state)), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _translate(model: nn.Module, state: Mapping[str, Tensor], source: str) -> list[tuple[str, tuple[str, ...], Tensor]]:
    """Official name, our names and the tensor under them, for every tensor of a state dict."""
    translate = _TRANSLATE[source]
    if source == "weightnet":
        return [
            (official, (name,), ours)
            for official, tensor in state.items()
            for name, ours in translate({official: tensor}).items()
        ]
    places = module_names(model, source)
    layers = {name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)}
    warehouses = warehouse_layers(model) if source == "kernelwarehouse" else []
    result: list[tuple[str, tuple[str, ...], Tensor]] = []
    merged: dict[str, dict[str, Tensor]] = {}
    for official, tensor in state.items():
        number = official.removeprefix(_WAREHOUSE)
        if warehouses and number != official and number.isdigit() and int(number) < len(warehouses):
            cells = tuple(f"{name}.warehouse.cells" for name in warehouses[int(number)])
            result.append((official, cells, tensor.flatten(1)))
            continue
        module, rest = _split(official, places)
        name = f"{places[module]}.{rest}" if module else official
        layer, inside = _split(name, layers)
        if layer and source == "dgc":
            merged.setdefault(layer, {})[inside] = tensor  # several heads make one tensor
        elif layer:
            for own, ours in translate({inside: tensor}).items():
                result.append((official, (f"{layer}.{own}",), ours))
        else:
            result.append((official, (name,), tensor))
    theirs = {ours: official for official, ours in places.items()}
    for layer, tensors in merged.items():
        for own, ours in translate(tensors).items():
            result.append((f"{theirs.get(layer, layer)}.{own}", (f"{layer}.{own}",), ours))
    return result


def _split(name: str, modules: Mapping[str, str] | set[str]) -> tuple[str, str]:
    """The longest module name that a tensor's name starts with, and the rest; the empty string if there is none."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in modules:
            return prefix, ".".join(parts[end:])
    return "", name


def check_source(source: str) -> None:
    """Check the name of a source.

    Raises:
        ValueError: If it is unknown; the message gives the closest names.
    """
    if source not in SOURCES:
        hint = did_you_mean(source, SOURCES)
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}{hint}")


def guess_source(names: Iterable[str]) -> str | None:
    """Whose names these are; None if no name says so."""
    text = "\n".join(names)
    return next((source for source, mark in _MARKS if re.search(mark, text)), None)


def _misfit(source: str, missing: list[str], unexpected: list[str], reshaped: list[str], guessed: str | None) -> str:
    parts = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if guessed not in (source, None):
        hint = f"their names are those of {guessed}: load_official(..., source={guessed!r})"
    elif reshaped and not missing and not unexpected:
        hint = "create_official builds the network that the shapes are of"
    else:
        hint = (
            "create the model in the published setting: layer, policy, layer_kwargs, dynamic_classifier, num_classes "
            "(see help(dyvision.checkpoints)), or by create_official"
        )
    return f"these {source} weights do not fit the model; {'; '.join(parts)}; {hint}"
