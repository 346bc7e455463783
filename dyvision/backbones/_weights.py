"""Weights from files and other networks, matched by name; a misfit is one sentence, not a page of keys."""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import nn

from dyvision.backbones._features import Backbone
from dyvision.checkpoint_file import check_finite, load_plain
from dyvision.layers import CoefficientBranch, DynamicConv2d

#: makes every torch.load one of plain data
_PLAIN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_State = Mapping[str, torch.Tensor]
Source = Mapping[str, torch.Tensor] | str | PathLike[str]

# Where training scripts put the network in a checkpoint; averaged weights first, as timm prefers them.
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_backbone_weights` did.

    Attributes:
        loaded: Number of tensors loaded.
        skipped: Names in the source that were not used (heads, pruned levels, optimiser copies).
        fresh: Names of the classifier's tensors that keep their initialisation, because it has other classes.
    """

    loaded: int
    skipped: tuple[str, ...]
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fit:
    """How the tensors of a source compare with those of a network."""

    tensors: dict[str, torch.Tensor]
    missing: list[str]
    reshaped: list[str]
    unexpected: list[str]
    skipped: list[str]


def load_backbone_weights(backbone: Backbone, source: Source) -> LoadReport:
    """Load the weights of a classifier, a backbone or a trained task into a backbone.

    Args:
        backbone: The backbone to fill, in place.
        source: A state dict or a path to one (``.safetensors``, or anything ``torch.load(weights_only=True)`` reads,
            Lightning checkpoints included). Names may carry any prefix (``model.``, ``backbone.body.``, ``module.``).
            Heads and levels that the backbone does not have are skipped.

    Returns:
        How many tensors were loaded and which were skipped.

    Raises:
        ValueError: If the file cannot be read or the architecture differs; nothing is loaded then.
    """
    what = "the given state dict" if isinstance(source, Mapping) else str(source)
    fit = _fit(backbone.body, read_state_dict(source), backbone._pruned)
    if fit.missing or fit.reshaped or fit.unexpected:
        raise ValueError(_misfit(backbone.body, fit, what))
    backbone.body.load_state_dict(fit.tensors, strict=False)
    return LoadReport(len(fit.tensors), tuple(fit.skipped))


def load_pretrained_file(model: nn.Module, path: str | PathLike[str]) -> LoadReport:
    """Load a classifier's weights from a file into a classifier of the same architecture.

    The names may be those of timm, of the network's authors where timm converts them, or of another implementation that
    has the same tensors in the same order. As with timm's own weights, the first convolution is adapted when the number
    of input channels differs, and a classifier with another number of classes keeps its initialisation.

    Raises:
        ValueError: If the file cannot be read or the architecture differs.
    """
    config = dict(getattr(model, "pretrained_cfg", None) or {})
    head = tuple(f"{name}." for name in _names(config.get("classifier")))
    state = read_state_dict(path)
    first: _Fit | None = None
    for rename in (_as_they_are, _as_timm_converts_them, _in_order):
        renamed = _adapt_input(model, rename(model, state, head), _names(config.get("first_conv")))
        fit = _without(_fit(model, renamed), head)
        if not (fit.missing or fit.reshaped or fit.unexpected):
            model.load_state_dict(fit.tensors, strict=False)
            fresh = tuple(key for key in model.state_dict() if key.startswith(head) and key not in fit.tensors)
            return LoadReport(len(fit.tensors), tuple(fit.skipped), fresh)
        first = first or fit
    raise ValueError(_misfit(model, first, str(path)) if first else f"{path} holds no weights")


@contextmanager
def plain_weights(name: str) -> Iterator[None]:
    """While timm builds a network, files of weights are read as plain data only, whichever way it was told of them.

    A folder (``local-dir:``), ``pretrained_cfg`` and ``checkpoint_path`` lead to calls of ``torch.load`` that timm made
    with ``weights_only=False`` in some versions; PyTorch's environment variable overrules them.

    Raises:
        ValueError: If a file holds more than that.
    """
    before = os.environ.get(_PLAIN)
    os.environ[_PLAIN] = "1"
    try:
        yield
    except (pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "weights_only" not in str(error):
            raise
        raise ValueError(
            f"the weights file of {name} holds objects besides tensors; loading them could run code, so it is refused. "
            "Save the state dict alone, or as .safetensors"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_PLAIN, None)
        else:
            os.environ[_PLAIN] = before


def read_state_dict(source: Source) -> dict[str, torch.Tensor]:
    """Tensors by name from a mapping or a file.

    Raises:
        ValueError: If the file does not exist, cannot be read safely, or holds no tensors.
    """
    if isinstance(source, Mapping):
        content: object = source
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise ValueError(f"weights file {path} does not exist")
        if path.suffix == ".safetensors":
            try:
                content = load_file(path)
            except (SafetensorError, OSError) as error:
                raise ValueError(f"weights file {path} cannot be read ({error}); expected .safetensors") from error
        else:
            try:
                content = load_plain(path)
            except ValueError as error:
                reason = str(error).removeprefix(f"{path}: ")
                raise ValueError(f"weights file {path} cannot be read: {reason}") from error
    for container in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not isinstance(source, Mapping):
        check_finite(tensors, f"weights file {source}")
    if not tensors:
        raise ValueError(f"{'the state dict' if isinstance(source, Mapping) else source} holds no tensors by name")
    return tensors


def _fit(model: nn.Module, source: Mapping[str, torch.Tensor], pruned: frozenset[str] = frozenset()) -> _Fit:
    target = model.state_dict()
    prefix = _prefix(target, source)
    renamed = {key[len(prefix) :]: value for key, value in source.items() if key.startswith(prefix)}
    tensors = {key: value for key, value in renamed.items() if key in target}
    reshaped = [key for key, value in tensors.items() if value.shape != target[key].shape]
    # old checkpoints lack BatchNorm's step counter
    missing = [key for key in target if key not in tensors and not key.endswith("num_batches_tracked")]
    roots = {key.split(".")[0] for key in target}
    unexpected = [key for key in renamed if key not in target and key not in pruned and key.split(".")[0] in roots]
    foreign = set(unexpected)
    skipped = [
        key
        for key in source
        if not key.startswith(prefix) or (key[len(prefix) :] not in target and key[len(prefix) :] not in foreign)
    ]
    return _Fit(tensors, missing, reshaped, unexpected, skipped)


def _without(fit: _Fit, head: tuple[str, ...]) -> _Fit:
    """The same but for the classifier, whose size may differ."""

    def kept(keys: Sequence[str]) -> list[str]:
        return [key for key in keys if not key.startswith(head)]

    resized = {key for key in fit.reshaped if key.startswith(head)}
    tensors = {key: value for key, value in fit.tensors.items() if key not in resized}
    return _Fit(tensors, kept(fit.missing), kept(fit.reshaped), kept(fit.unexpected), fit.skipped)


def _as_they_are(model: nn.Module, state: _State, head: tuple[str, ...]) -> _State:
    return state


def _as_timm_converts_them(model: nn.Module, state: _State, head: tuple[str, ...]) -> _State:
    """Weights published by the authors of a network, under the names of their own code."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), model))
    # written for certain files, so others may raise anything; the plain names are what the message is about
    except Exception:
        return state


def _in_order(model: nn.Module, state: _State, head: tuple[str, ...]) -> _State:
    """Another implementation with the same modules in the same order (efficientnet_pytorch).

    Only if weight follows weight and bias follows bias all the way; the caller compares the shapes.
    """
    target = list(model.state_dict())
    body = [key for key in target if not key.startswith(head)]
    names = list(state)
    if not len(body) <= len(names) <= len(body) + 2:
        return state
    if any(key.rpartition(".")[2] != name.rpartition(".")[2] for key, name in zip(body, names, strict=False)):
        return state
    order = [*body, *(key for key in target if key not in set(body))]
    return {key: state[name] for key, name in zip(order, names, strict=False)}


def _prefix(target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> str:
    """What stands before the network's names in the source: the prefix under which most of them are found."""
    votes: Counter[str] = Counter()
    for key in source:
        segments = key.split(".")
        for start in range(len(segments)):
            if ".".join(segments[start:]) in target:
                votes["".join(f"{segment}." for segment in segments[:start])] += 1
    return max(votes, key=lambda prefix: (votes[prefix], -len(prefix))) if votes else ""


def _adapt_input(model: nn.Module, state: Mapping[str, torch.Tensor], convs: Sequence[str]) -> dict[str, torch.Tensor]:
    adapted = dict(state)
    target = model.state_dict()
    prefix = _prefix(target, state)
    for name in convs:
        key = f"{name}.weight"
        weight = adapted.get(prefix + key)
        if weight is not None and key in target and weight.ndim == 4 and weight.shape[1] != target[key].shape[1]:
            adapted[prefix + key] = adapt_input_conv(target[key].shape[1], weight)
    return adapted


def _misfit(model: nn.Module, fit: _Fit, what: str) -> str:
    target = model.state_dict()
    dynamic = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, (DynamicConv2d, CoefficientBranch))
    )
    parts = []
    if fit.missing:
        parts.append(f"{len(fit.missing)} of {len(target)} tensors are missing ({_few(fit.missing)})")
    if fit.reshaped:
        first = fit.reshaped[0]
        shapes = f"{first}: {list(fit.tensors[first].shape)} instead of {list(target[first].shape)}"
        parts.append(f"{len(fit.reshaped)} have another shape ({shapes})")
    if fit.unexpected:
        parts.append(f"{len(fit.unexpected)} are unknown ({_few(fit.unexpected)})")
    if dynamic and all(key.startswith(dynamic) for key in [*fit.missing, *fit.reshaped, *fit.unexpected]):
        # the counts say nothing here: weights of a static network are converted by another option
        return (
            f"{what} fits but for the dynamic layers of this {type(model).__name__} ({len(fit.missing)} "
            "tensors are missing): weights of a static network are given as --model.pretrained FILE (in Python "
            "pretrained=FILE), which converts them; others need the layer, policy and layer_kwargs of their training"
        )
    if not dynamic and any("coefficient_branch." in key or ".branch." in key for key in fit.unexpected):
        hint = "the weights have dynamic layers: create the backbone with the layer they were trained with"
    else:
        hint = "check the backbone's name, in_chans, layer, policy and out_indices"
    return f"{what} does not fit this {type(model).__name__}: {', '.join(parts)}; {hint}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
