"""Attributes that a block's ``forward`` reads: ``torch.fx`` would write their values into the graph for good.

A number that is computed with (``x * self.scale``) is read again in each call of the rewritten block. One that chooses
the path, a flag or a word is written into the graph, and the rewritten block refuses to run once it is another one.
Parameters, buffers and modules are read by name. Whatever else is read (a dict, a function, an object of settings, an
attribute that is not there yet) could change without a word, so such a block is not rewritten.
"""

from __future__ import annotations

import enum
import functools
import inspect
import numbers
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from dyvision.convert._block_inputs import differs, recorded_again

_SINGLE = (bool, int, float, str, type(None), torch.dtype)
#: what every module has: its own attributes, ``training`` included, and those of the class
_OWN = frozenset(vars(nn.Module()))
_OF_CLASS = {name: inspect.getattr_static(nn.Module, name) for name in dir(nn.Module)}
#: what a class has that is code: what it reads itself is seen, too
_CODE = (types.FunctionType, classmethod, staticmethod, property)


@dataclass
class Reads:
    """Attributes that were read in a trace, by their names relative to what was traced.

    Attributes:
        plain: Values of those that are plain.
        lost: Those that a graph can neither follow nor compare, and what they are.
    """

    plain: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


@contextmanager
def watched(
    tracer: fx.Tracer, root: nn.Module, live: Collection[str] | None, closed: Collection[str], reads: Reads
) -> Iterator[None]:
    """Note which attributes of a module and of those in it are read while it is traced.

    Args:
        tracer: Of the trace.
        root: What it traces.
        live: Names of the plain ones that become nodes of the graph; all if None.
        closed: Names of modules that are not looked at.
        reads: Gets what is read.
    """

    def read(name: str, value: Any) -> Any:
        reads.plain[name] = value
        return tracer.create_proxy("get_attr", name, (), {}) if live is None or name in live else value

    kinds = [
        (name, module, type(module))
        for name, module in root.named_modules()
        if name not in closed and not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        for name, module, kind in kinds:
            module.__class__ = _reporting(kind, f"{name}." if name else "", read, reads.lost)
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


def _reporting(
    kind: type[nn.Module], prefix: str, read: Callable[[str, Any], Any], lost: dict[str, str]
) -> type[nn.Module]:
    """A class that tells which of its attributes are read."""
    ordinary = kind.__getattribute__ is object.__getattribute__

    def get(self: nn.Module, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if name.startswith("__") or name in _OWN or isinstance(value, fx.Proxy):  # a stand-in was stored just now
            return value
        stored, of_class = inspect.getattr_static(self, name, None), inspect.getattr_static(kind, name, None)
        if stored is _OF_CLASS.get(name, _OF_CLASS):
            return value
        followed = ordinary and not isinstance(of_class, functools.cached_property)
        if followed and stored is of_class and isinstance(stored, _CODE):
            return value
        if followed and is_plain(value) and is_plain(stored):
            return read(prefix + name, value)
        lost[prefix + name] = f"of type {type(value).__name__}"
        return value

    def get_other(self: nn.Module, name: str) -> Any:
        """What is not found as others are: parameters, buffers and modules, and what is not there."""
        try:
            value = kind.__getattr__(self, name)
        except AttributeError:
            # the tracer looks for a free name for a constant of the graph
            if not name.startswith(("__", "_tensor_constant")):
                lost[prefix + name] = "which is not there"
            raise
        if not any(name in registered for registered in (self._parameters, self._buffers, self._modules)):
            lost[prefix + name] = "which its __getattr__ finds"
        return read(prefix + name, None) if value is None else value

    return type(kind.__name__, (kind,), {"__getattribute__": get, "__getattr__": get_other})
