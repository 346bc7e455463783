"""Weights from files and other networks, matched by name; a misfit is one sentence, not a page of keys."""

from __future__ import annotations

import os
import pickle
import sys
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

from dyvision.backbones._matching import Fit, describe_misfit, find_prefix, match, without_head
from dyvision.backbones.features import Backbone
from dyvision.checkpoint_file import check_finite, load_plain
from dyvision.tensor_kinds import check_kinds

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
        prefix: What stands before the network's names in the source.
    """

    loaded: int
    skipped: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    prefix: str = ""


def load_backbone_weights(backbone: Backbone, source: Source, *, where: str | None = None) -> LoadReport:
    """Load the weights of a classifier, a backbone or a trained task into a backbone.

    Args:
        backbone: The backbone to fill, in place.
        source: A state dict or a path to one (``.safetensors``, or anything ``torch.load(weights_only=True)`` reads,
            Lightning checkpoints included). Names may carry any prefix (``model.``, ``backbone.body.``, ``module.``).
            Heads and levels that the backbone does not have are skipped.
        where: The file that a state dict was read from, for messages.

    Returns:
        How many tensors were loaded and which were skipped.

    Raises:
        ValueError: If the file cannot be read, the architecture differs, or a tensor holds another kind of numbers;
            nothing is loaded then.
    """
    what = where or ("the given state dict" if isinstance(source, Mapping) else str(source))
    fit = match(backbone.body, read_state_dict(source), backbone._pruned)
    if fit.missing or fit.reshaped or fit.unexpected:
        raise ValueError(describe_misfit(backbone.body, fit, what))
    check_kinds(fit.tensors, backbone.body.state_dict(), what)
    backbone.body.load_state_dict(fit.tensors, strict=False)
    return LoadReport(len(fit.tensors), tuple(fit.skipped), prefix=fit.prefix)


def load_pretrained_file(model: nn.Module, path: str | PathLike[str]) -> LoadReport:
    """Load a classifier's weights from a file into a classifier of the same architecture.

    The names may be those of timm, of the network's authors where timm converts them, or of another implementation that
    has the same tensors in the same order. As with timm's own weights, the first convolution is adapted when the number
    of input channels differs, and a classifier with another number of classes keeps its initialisation.

    Raises:
        ValueError: If the file cannot be read, the architecture differs, or a tensor holds another kind of numbers.
    """
    config = dict(getattr(model, "pretrained_cfg", None) or {})
    head = tuple(f"{name}." for name in _names(config.get("classifier")))
    state = read_state_dict(path)
    first: Fit | None = None
    for rename in (_as_they_are, _as_timm_converts_them, _in_order):
        renamed = _adapt_input(model, rename(model, state, head), _names(config.get("first_conv")))
        fit = without_head(match(model, renamed), head)
        if not (fit.missing or fit.reshaped or fit.unexpected):
            check_kinds(fit.tensors, model.state_dict(), f"weights file {path}")
            model.load_state_dict(fit.tensors, strict=False)
            fresh = tuple(key for key in model.state_dict() if key.startswith(head) and key not in fit.tensors)
            return LoadReport(len(fit.tensors), tuple(fit.skipped), fresh, fit.prefix)
        first = first or fit
    raise ValueError(describe_misfit(model, first, str(path)) if first else f"{path} holds no weights")


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


def _adapt_input(model: nn.Module, state: Mapping[str, torch.Tensor], convs: Sequence[str]) -> dict[str, torch.Tensor]:
    adapted = dict(state)
    target = model.state_dict()
    prefix = find_prefix(target, state)
    for name in convs:
        key = f"{name}.weight"
        weight = adapted.get(prefix + key)
        if weight is not None and key in target and weight.ndim == 4 and weight.shape[1] != target[key].shape[1]:
            adapted[prefix + key] = adapt_input_conv(target[key].shape[1], weight)
    return adapted


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
