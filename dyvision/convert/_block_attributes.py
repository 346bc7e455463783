"""Plain attributes that a block's ``forward`` reads: ``torch.fx`` would write their values into the graph for good.

A number that is computed with (``x * self.scale``) is read again in each call of the rewritten block. One that chooses
the path, a flag or a word is written into the graph, and the rewritten block refuses to run once it is another one.
"""

from __future__ import annotations

import enum
import inspect
import numbers
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from dyvision.convert._block_inputs import differs, recorded_again

_SINGLE = (bool, int, float, str, type(None), torch.dtype)
#: what every module has, ``training`` included
_OF_MODULES = frozenset(dir(nn.Module()))


@contextmanager
def watched(
    tracer: fx.Tracer, root: nn.Module, live: Collection[str] | None, closed: Collection[str], seen: dict[str, Any]
) -> Iterator[None]:
    """Note which plain attributes of a module and of those in it are read while it is traced.

    Args:
        tracer: Of the trace.
        root: What it traces.
        live: Names of those that become nodes of the graph, relative to the root; all if None.
        closed: Names of modules that are not looked at.
        seen: Gets the values by name.
    """

    def read(name: str, value: Any) -> Any:
        seen[name] = value
        return tracer.create_proxy("get_attr", name, (), {}) if live is None or name in live else value

    kinds = [
        (name, module, type(module))
        for name, module in root.named_modules()
        if name not in closed and not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        for name, module, kind in kinds:
            module.__class__ = _reporting(kind, f"{name}." if name else "", read)
        yield
    finally:
        for _, module, kind in kinds:
            module.__class__ = kind


def numbers_among(seen: Mapping[str, Any]) -> list[str]:
    """Names of what may be computed with; members of an enumeration choose."""
    return [
        name
        for name, value in seen.items()
        if isinstance(value, numbers.Real) and not isinstance(value, (bool, enum.Enum))
    ]


def _write_plainly(graph: fx.Graph) -> None:
    """Let a graph have Python's numbers for NumPy's, whose names its code does not know."""
    for node in graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _plainly)


def check_attributes(graph: fx.Graph, fixed: dict[str, Any]) -> None:
    """Let a graph refuse to run if an attribute is another than the one it was traced with."""
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        for name, value in reversed(fixed.items()):  # each goes before the last one
            read = graph.create_node("get_attr", name)
            with graph.inserting_after(read):
                graph.call_function(expect_attribute, (read, value, name))
    _write_plainly(graph)


def expect_attribute(value: Any, fixed: Any, name: str) -> None:
    """Refuse another value of an attribute than a rewritten block was traced with.

    Raises:
        ValueError: If it is another one.
    """
    if not recorded_again(expect_attribute, value, fixed, name) and differs(value, fixed):
        raise ValueError(
            f"this block shares one coefficient branch, for which it was rewritten with self.{name} = {fixed!r}, and "
            "cannot follow a change of it: set it before dynamize, or call dynamize with another policy"
        )


def is_plain(value: object) -> bool:
    """Whether a value is a number, a flag, a word, a type, of an enumeration, None, or a tuple or list of such."""
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return all(is_plain(one) for one in value)
    return type(value) in _SINGLE or isinstance(value, (np.generic, enum.Enum))


def _plainly(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _reporting(kind: type[nn.Module], prefix: str, read: Callable[[str, Any], Any]) -> type[nn.Module]:
    """A class that tells which of its plain attributes are read; values that properties compute are none."""

    def get(self: nn.Module, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if name in _OF_MODULES or name.startswith("__") or not is_plain(value):
            return value
        return read(prefix + name, value) if is_plain(inspect.getattr_static(self, name, get)) else value

    return type(kind.__name__, (kind,), {"__getattribute__": get})
