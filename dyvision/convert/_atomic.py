"""A model as it was: what runs foreign code, or may stop half-way, leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Give the model back its modules, parameters, buffers, hooks, flags and attributes if the block raises."""
    before = _remember(model)
    try:
        yield
    except BaseException:
        _restore(before)
        raise


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give the model back all that whatever the block does; the numbers in its tensors are not looked at."""
    before = _remember(model)
    try:
        yield
    finally:
        _restore(before)


#: a module, its attributes, and the containers among them with what they hold
_State = list[tuple[nn.Module, dict[str, Any], list[tuple[Any, Any]]]]


def _remember(model: nn.Module) -> _State:
    found: _State = []
    for module in model.modules():
        attributes = dict(vars(module))
        containers = [
            (value, type(value)(value)) for value in attributes.values() if type(value) in (dict, set, list)
        ]  # modules, parameters, buffers and hooks are in dicts
        ordered = [(value, dict(value)) for value in attributes.values() if _is_other_dict(value)]
        found.append((module, attributes, containers + ordered))
    return found


def _is_other_dict(value: object) -> bool:
    return isinstance(value, dict) and type(value) is not dict


def _restore(before: _State) -> None:
    for module, attributes, containers in before:
        for value, contents in containers:
            value.clear()
            if isinstance(value, list):
                value.extend(contents)
            else:
                value.update(contents)
        vars(module).clear()
        vars(module).update(attributes)
