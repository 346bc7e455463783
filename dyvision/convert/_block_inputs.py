"""Blocks with several inputs: how the model calls them, seen in one forward pass, and a ``forward`` fixed to that.

``forward(x, skip=None)`` has two paths, and ``torch.fx`` follows one. Which one a block takes, and how many channels
its first input has, only a call can tell. What is not given in it is fixed; the rewritten block refuses other values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from dyvision.convert._atomic import unchanged

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
#: sides of the images that are tried where no example is given
_SIDES = (64, 224)


class UnclearInputsError(Exception):
    """How the block is called is unclear; the message says why."""


@dataclass(frozen=True)
class BlockCall:
    """How a block is called.

    Attributes:
        values: What it is given, by the name of the argument; tensors of the sizes of the example.
        fixed: Arguments that choose the path through ``forward``: those without a value, flags and words.
        source: The first tensor among the arguments, whose size is ``[B, C, H, W]``.
    """

    values: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def fix(self, names: Iterable[str]) -> BlockCall:
        """The same with further arguments fixed."""
        return BlockCall(self.values, {**self.fixed, **{name: self.values[name] for name in names}}, self.source)


def takes_several(block: nn.Module) -> bool:
    """Whether a block's ``forward`` has more arguments than one."""
    return len(inspect.signature(block.forward).parameters) > 1


def observe_calls(model: nn.Module, blocks: Sequence[str], example: Tensor | None) -> dict[str, list[tuple[Any, Any]]]:
    """Positional arguments and keywords of each call of some blocks in one forward pass.

    Args:
        model: The model; unchanged afterwards.
        blocks: Names of the blocks.
        example: What it takes; without one, random images of the channels that its first convolution has are tried.
    """
    calls: dict[str, list[tuple[Any, Any]]] = {name: [] for name in blocks}
    for images in [example] if example is not None else _images(model):
        with unchanged(model), torch.no_grad():
            for name in blocks:
                model.get_submodule(name).register_forward_pre_hook(_recorder(calls[name]), with_kwargs=True)
            model.eval()
            try:
                model(images)
            # foreign code, which may not take images at all
            except Exception:
                for found in calls.values():
                    found.clear()
                continue
        break
    return calls


def understand_call(block: nn.Module, calls: Sequence[tuple[Any, Any]]) -> BlockCall:
    """What the calls of a block have in common.

    Raises:
        UnclearInputsError: If there was none, they differ, or none of the arguments is a map.
    """
    parameters = inspect.signature(block.forward).parameters
    if any(parameter.kind not in _NAMED for parameter in parameters.values()):
        raise UnclearInputsError("its forward takes any number of arguments")
    if not calls:
        raise UnclearInputsError(
            "its forward takes more than one argument, and no forward pass shows which: give an example_input"
        )
    bound = [inspect.signature(block.forward).bind(*args, **kwargs) for args, kwargs in calls]
    for one in bound:
        one.apply_defaults()
    fixed = [{name: value for name, value in one.arguments.items() if _chooses(value)} for one in bound]
    if any(other != fixed[0] for other in fixed[1:]):
        raise UnclearInputsError("its forward takes more than one argument, and its calls differ in which")
    values = bound[0].arguments
    source = next((name for name, value in values.items() if isinstance(value, Tensor)), "")
    if not source or values[source].ndim != 4:
        raise UnclearInputsError("its forward takes more than one argument, and the first tensor among them is no map")
    return BlockCall(dict(values), fixed[0], source)


@contextmanager
def fixed_forward(block: nn.Module, call: BlockCall | None) -> Iterator[None]:
    """Let the class of a block have a ``forward`` with the fixed arguments inside: tracers ask the class."""
    if call is None or not call.fixed:
        yield
        return
    kind = type(block)
    block.__class__ = type(kind.__name__, (kind,), {"forward": _with_fixed(kind.forward, call.fixed)})
    try:
        yield
    finally:
        block.__class__ = kind


def expect(value: Any, fixed: Any, name: str) -> None:
    """Refuse another value than a rewritten block was traced with.

    Raises:
        ValueError: If it is another one.
    """
    if not recorded_again(expect, value, fixed, name) and differs(value, fixed):
        raise ValueError(
            f"this block shares one coefficient branch, for which it was rewritten with {name}={fixed!r}, and cannot "
            "take another value: call dynamize with an example_input that is called so, or with another policy"
        )


def expect_tensor(value: Any, name: str) -> None:
    """Refuse a call without an argument that a rewritten block was traced with.

    Raises:
        ValueError: If it is no tensor.
    """
    if not recorded_again(expect_tensor, value, name) and not isinstance(value, Tensor):
        raise ValueError(
            f"this block shares one coefficient branch, for which it was rewritten with a tensor as {name}, and cannot "
            f"take {value!r}: call dynamize with an example_input that is called so, or with another policy"
        )


def recorded_again(refusal: Callable[..., None], value: Any, *rest: Any) -> bool:
    """Whether the code of a rewritten block is traced again, as unpickling does; its refusal becomes a node then."""
    if not isinstance(value, fx.Proxy):
        return False
    value.tracer.create_proxy("call_function", refusal, (value, *rest), {})
    return True


def differs(value: Any, fixed: Any) -> bool:
    """Whether a value is another than the one that a block was traced with."""
    return value is not fixed and (isinstance(value, Tensor) or value != fixed)


def check_fixed(graph: fx.Graph, call: BlockCall) -> None:
    """Add the refusals to a graph, behind its arguments."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(placeholders[-1]):
        for node in reversed(placeholders):  # each goes before the last one
            name = str(node.target)
            if name in call.fixed:
                graph.call_function(expect, (node, call.fixed[name], name))
            elif node.args and isinstance(call.values[name], Tensor):  # has a default, so it may be left out
                graph.call_function(expect_tensor, (node, name))


def _chooses(value: Any) -> bool:
    return value is None or isinstance(value, (bool, str))


def _images(model: nn.Module) -> Iterator[Tensor]:
    conv = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    reference = next(model.parameters(), None)
    if conv is not None and reference is not None:
        for side in _SIDES:
            random = torch.Generator().manual_seed(side)
            yield torch.rand(2, conv.in_channels, side, side, generator=random).to(reference)


def _recorder(calls: list[tuple[Any, Any]]) -> Callable[..., None]:
    def record(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append((args, dict(kwargs)))

    return record


def _with_fixed(forward: Callable[..., Any], fixed: Mapping[str, Any]) -> Callable[..., Any]:
    """A function of the same arguments; a tracer reads them from its code, so it needs one of its own."""
    names = list(inspect.signature(forward).parameters)
    defaults = {f"default_{n}": p.default for n, p in inspect.signature(forward).parameters.items()}
    declared, given, starred = [], [], False
    for name, parameter in inspect.signature(forward).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            declared.append("*")
            starred = True
        declared.append(name if parameter.default is inspect.Parameter.empty else f"{name}=default_{name}")
        value = f"fixed[{name!r}]" if name in fixed else name
        given.append(f"{name}={value}" if starred else value)
    namespace: dict[str, Any] = {"forward_": forward, "fixed": dict(fixed), **defaults}
    # names of arguments are identifiers: nothing but those is put into the text
    assert all(name.isidentifier() for name in names)
    exec(f"def forward({', '.join(declared)}):\n    return forward_({', '.join(given)})", namespace)
    made: Callable[..., Any] = namespace["forward"]
    return made
