"""A network's weights under other names, or for other input channels: what timm converts, and what keeps the order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from timm.models import adapt_input_conv
from torch import nn

from dyvision.convert.matching import COUNTER, find_prefix

_State = Mapping[str, torch.Tensor]


def candidates(model: nn.Module, target: _State, state: _State, head: tuple[str, ...]) -> Iterator[_State]:
    """The tensors of a source under all names that may be those of a network, the likeliest first.

    Args:
        model: The network.
        target: The tensors that it wants.
        state: The source.
        head: What the names of its classifier begin with.
    """
    renamings: tuple[Callable[[], _State], ...] = (
        lambda: state,
        lambda: _as_timm_converts_them(model, state),
        lambda: _in_order(target, state, head),
    )
    for rename in renamings:
        renamed = rename()
        yield _adapt_input(target, renamed, _first_convs(model))


def _as_timm_converts_them(model: nn.Module, state: _State) -> _State:
    """Weights published by the authors of a network, under the names of their own code."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), model))
    # written for certain files, so others may raise anything; the plain names are what the message is about
    except Exception:
        return state


def _in_order(target: _State, state: _State, head: tuple[str, ...]) -> _State:
    """Another implementation with the same modules in the same order (efficientnet_pytorch, torchvision).

    Only if weight follows weight and bias follows bias all the way; the caller compares the shapes. What a training
    script keeps beside the network (``criterion.weight``) has another beginning of its name, and is left out.
    """
    body = [key for key in target if not key.startswith(head)]
    order = [*body, *(key for key in target if key.startswith(head))]
    for names in _families(state):
        counted = any(name.endswith(COUNTER) for name in names)
        wanted = [key for key in order if counted or not key.endswith(COUNTER)]
        needed = [key for key in body if counted or not key.endswith(COUNTER)]
        if not len(needed) <= len(names) <= len(needed) + 2:
            continue
        if all(key.rpartition(".")[2] == name.rpartition(".")[2] for key, name in zip(needed, names, strict=False)):
            return {key: state[name] for key, name in zip(wanted, names, strict=False)}
    return state


def _families(state: _State) -> Iterator[list[str]]:
    """All names, then those under each beginning (``model.``, ``module.encoder.``) that is not the only one."""
    yield list(state)
    for depth in (1, 2):
        groups: dict[tuple[str, ...], list[str]] = {}
        for name in state:
            parts = name.split(".")
            if len(parts) > depth:
                groups.setdefault(tuple(parts[:depth]), []).append(name)
        yield from sorted(groups.values(), key=len, reverse=True)[:3]


def _adapt_input(target: _State, state: _State, convs: Sequence[str]) -> dict[str, torch.Tensor]:
    adapted = dict(state)
    prefix = find_prefix(target, state)
    for name in convs:
        key = f"{name}.weight"
        weight = adapted.get(prefix + key)
        if weight is not None and key in target and weight.ndim == 4 and weight.shape[1] != target[key].shape[1]:
            adapted[prefix + key] = adapt_input_conv(target[key].shape[1], weight)
    return adapted


def _first_convs(model: nn.Module) -> tuple[str, ...]:
    """Names of the convolutions that see the image."""
    known = names_in(getattr(model, "pretrained_cfg", None), "first_conv")
    if known:
        return known
    convs = (name for name, module in model.named_modules() if hasattr(module, "in_channels"))
    return tuple(name for _, name in zip(range(1), convs, strict=False))


def names_in(config: object, key: str) -> tuple[str, ...]:
    """What a configuration of timm's has under a key, one name or several."""
    value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, (list, tuple)) else ()
