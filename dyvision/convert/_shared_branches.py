"""One coefficient branch per block: blocks rewritten so that their layers receive its output as an argument.

DyNet and CondConv predict the coefficients of all layers of a block from the block's input. The block's ``forward``
knows nothing of coefficients, so it is traced with ``torch.fx`` (its children stay closed boxes) and one call is added
at the top:

    coefficients = self.coefficient_branch(x)
    ... self.conv_dw(h, coefficients[1]) ...

The result is an ordinary module without hidden state: it can be copied, pickled, checkpointed, compiled and exported.
Tracing follows one path through ``forward``. So that a block which has others is not changed in silence, the trace is
made in training and in evaluation mode and executed beside the block; if anything differs, the block is left as it is.
Of several inputs (a decoder's skip connection) the branch sees the first tensor.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from dyvision.convert._atomic import unchanged
from dyvision.convert._block_attributes import Reads, check_attributes, numbers_among, watched
from dyvision.convert._block_inputs import BlockCall, check_fixed, fixed_forward
from dyvision.convert._block_origin import remember_block
from dyvision.convert._effects import no_effects
from dyvision.convert._handover import has_hooks
from dyvision.convert._sites import has_own_methods
from dyvision.text import first_line

BRANCH_NAME = "coefficient_branch"


class UntraceableBlockError(Exception):
    """The block cannot be rewritten; the message says why."""


@dataclass(frozen=True)
class BlockTrace:
    """A block as a graph.

    Attributes:
        graph: Its operations; the children are called as modules.
        in_channels: Channels of its input, of several the first.
        source: Name of that input.
    """

    graph: fx.Graph
    in_channels: int
    source: str


class _BlockTracer(fx.Tracer):
    """Keeps every child closed but the containers on the way to given modules."""

    # fx creates tracers without arguments when it unpickles a module, whose code reads what is live
    def __init__(
        self, inner: Sequence[str] = (), live: Collection[str] | None = None, buffers_as_nodes: bool = True
    ) -> None:
        super().__init__()
        self.proxy_buffer_attributes = buffers_as_nodes
        self._containers = {name[:end] for name in inner for end, mark in enumerate(name) if mark == "."}
        self._inner, self._live = inner, live
        self.reads = Reads()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with watched(self, root, self._live, self._inner, self.reads):
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._containers


def trace_block(block: nn.Module, convs: Sequence[str], call: BlockCall | None = None) -> BlockTrace:
    """Trace a block down to the given convolutions.

    Args:
        block: The block, with its static convolutions still in place; unchanged afterwards.
        convs: Names of the convolutions relative to the block.
        call: How it is called, if its ``forward`` takes more than one argument.

    Raises:
        UntraceableBlockError: If the block's ``forward`` depends on data or on the training mode, or does not call each
            of the convolutions.
    """
    containers = {name[:end] for name in convs for end, mark in enumerate(name) if mark == "."}
    for name in ("", *sorted(containers)):  # what is not called as a module any more
        rewritten = block.get_submodule(name)
        if has_hooks(rewritten) or has_own_methods(rewritten):
            raise UntraceableBlockError(f"{name or 'it'} has hooks or a replaced method, which would be lost")
    try:
        graph, fixed = _any_mode(block, convs, call)
    except UntraceableBlockError:
        if call is None:
            raise
        # numbers may choose the path, too
        numbers = [name for name, value in call.values.items() if isinstance(value, (int, float))]
        call = call.fix(numbers)
        graph, fixed = _any_mode(block, convs, call)
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    uncalled = [name for name in convs if name not in called]
    if uncalled or any(node.op == "get_attr" and _inside(str(node.target), convs) for node in graph.nodes):
        raise UntraceableBlockError(
            f"its forward does not call {uncalled[0] if uncalled else 'its convolutions'} directly"
        )
    check_attributes(graph, fixed)
    if call is not None:
        check_fixed(graph, call)
        graph.lint()
        _compare_call(block, graph, call)
        return BlockTrace(graph, int(call.values[call.source].shape[1]), call.source)
    (placeholder,) = (node for node in graph.nodes if node.op == "placeholder")
    if any(node.target is operator.getitem and isinstance(node.args[1], (int, str)) for node in placeholder.users):
        # an image of the batch, or a member of a list: made-up images cannot tell
        raise UntraceableBlockError("it indexes its input, which may be a list or a mapping")
    return BlockTrace(graph, _probe(block, graph), str(placeholder.target))


def share_branch(block: nn.Module, trace: BlockTrace, branch: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Build the block that hands the branch's output to its layers.

    Args:
        block: The traced block; it gives up its children and parameters to the result, under the same names.
        trace: Its trace.
        branch: Called on the block's input, the first of several; returns one entry per layer, in the order of
            ``layers``.
        layers: The layers by the name of the convolution (relative to the block) that each replaces.

    Returns:
        A module that replaces the block.
    """
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(block.get_submodule(parent), attribute, layer)
    children = dict(block.named_children())
    remember_block(block, branch, layers)
    block.add_module(BRANCH_NAME, branch)
    persistent = set(block.state_dict())

    graph = trace.graph
    entries = list(layers)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    source = next(node for node in placeholders if node.target == trace.source)
    with graph.inserting_after(placeholders[-1]):
        coefficients = graph.create_node("call_module", BRANCH_NAME, (source,))
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target in layers:
            with graph.inserting_before(node):
                entry = graph.call_function(operator.getitem, (coefficients, entries.index(str(node.target))))
            node.args = (*node.args, entry)
    shared = fx.GraphModule(block, graph, class_name=type(block).__name__)

    # GraphModule copies what the graph mentions, with bare modules for the containers; names, order and types of all
    # children have to survive
    for copied in [name for name, _ in shared.named_children()]:
        delattr(shared, copied)
    for child_name, child in [*children.items(), (BRANCH_NAME, branch)]:
        shared.add_module(child_name, child)
    for name, parameter in block.named_parameters(recurse=False):
        if not hasattr(shared, name):
            shared.register_parameter(name, parameter)
    for name, buffer in block.named_buffers(recurse=False):
        if not hasattr(shared, name):
            shared.register_buffer(name, buffer, persistent=name in persistent)
    for name, value in vars(block).items():
        if not hasattr(shared, name):
            setattr(shared, name, value)
    return shared


def _any_mode(block: nn.Module, convs: Sequence[str], call: BlockCall | None) -> tuple[fx.Graph, dict[str, Any]]:
    """The graph of both modes, and the attributes whose values are in it; of the numbers as few as possible."""
    # first with the buffers themselves, which shows what is done to them; what is computed from them alone would be
    # constants of that graph
    _, seen = _both_modes(block, convs, call, (), buffers_as_nodes=False)
    graph, _ = _both_modes(block, convs, call, ())
    live: list[str] = []
    numbers = numbers_among(seen)
    for more in [numbers, *([number] for number in numbers)]:
        if set(more) <= set(live):
            continue
        try:
            graph, _ = _both_modes(block, convs, call, [*live, *more])
        except UntraceableBlockError:  # one of them chooses the path
            continue
        live += more
    return graph, {name: value for name, value in seen.items() if name not in live}


def _both_modes(
    block: nn.Module,
    convs: Sequence[str],
    call: BlockCall | None,
    live: Collection[str],
    buffers_as_nodes: bool = True,
) -> tuple[fx.Graph, dict[str, Any]]:
    graphs: list[fx.Graph] = []
    seen: dict[str, Any] = {}
    for training in (True, False):
        # what forward stores on its module is a stand-in here, or a tensor of the wrong size
        with unchanged(block):
            block.train(training)
            graph, read = _trace(block, call, _BlockTracer(convs, live, buffers_as_nodes))
        graphs.append(graph)
        seen.update(read)
    if graphs[0].python_code("self").src != graphs[1].python_code("self").src:
        raise UntraceableBlockError("its forward differs between training and evaluation mode")
    return graphs[1], seen


def _trace(block: nn.Module, call: BlockCall | None, tracer: _BlockTracer) -> tuple[fx.Graph, dict[str, Any]]:
    try:
        with fixed_forward(block, call), no_effects(block) as effects:
            graph = tracer.trace(block)
    # tracing runs foreign code with stand-ins for tensors: it can fail in any way
    except Exception as error:
        raise UntraceableBlockError(f"torch.fx cannot trace it ({first_line(error, 120)})") from error
    if effects:
        raise UntraceableBlockError(f"its forward {effects[0]}, which a trace does once and never again")
    if tracer.reads.lost:
        name, what = next(iter(tracer.reads.lost.items()))
        raise UntraceableBlockError(f"its forward reads self.{name}, {what}: a trace could not follow a change of it")
    return graph, tracer.reads.plain


def _probe(block: nn.Module, graph: fx.Graph) -> int:
    """Channels of the block's input, found by running it; also compares the trace with the block itself."""
    reference = next((tensor for tensor in block.parameters()), None)
    if reference is None:
        raise UntraceableBlockError("it has no parameters")
    with torch.no_grad(), unchanged(block):
        block.eval()
        for channels in _candidates(block):
            generator = torch.Generator().manual_seed(channels)
            x = torch.randn(2, channels, 9, 8, generator=generator).to(reference)
            try:
                expected = block(x.clone())
            # a wrong number of channels; which exception depends on the first layer
            except Exception:
                continue
            try:
                found = fx.Interpreter(block, graph=graph).run(x.clone())
            except Exception as error:
                raise UntraceableBlockError(f"its trace does not run ({first_line(error, 120)})") from error
            if not isinstance(expected, torch.Tensor) or not isinstance(found, torch.Tensor):
                raise UntraceableBlockError("it does not return one tensor")
            _check_same([found], [expected])
            return channels
    raise UntraceableBlockError("the number of its input channels is unclear")


def _compare_call(block: nn.Module, graph: fx.Graph, call: BlockCall) -> None:
    """Run the block and its trace on what it is called with."""
    with torch.no_grad(), unchanged(block):
        block.eval()
        try:
            expected = _tensors(block(**call.values))
            inputs = [call.values[str(node.target)] for node in graph.nodes if node.op == "placeholder"]
            found = _tensors(fx.Interpreter(block, graph=graph).run(*inputs))
        except Exception as error:
            raise UntraceableBlockError(f"its trace does not run ({first_line(error, 120)})") from error
    _check_same(found, expected)


def _check_same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    if [one.shape for one in expected] != [one.shape for one in found]:
        raise UntraceableBlockError("its trace gives another shape")
    for one, other in zip(expected, found, strict=True):
        if not one.is_meta and not torch.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise UntraceableBlockError("its trace computes something else")


def _tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in _tensors(part)]
    raise UntraceableBlockError("it does not return tensors")


def _candidates(block: nn.Module) -> list[int]:
    counts = []
    for module in block.modules():
        for attribute in ("in_channels", "num_features", "num_channels"):
            value = getattr(module, attribute, None)
            if isinstance(value, int):
                counts.append(value)
    # blocks that split their channels see a multiple of what their convolutions see
    return list(dict.fromkeys([*counts, *(factor * count for factor in (2, 4) for count in counts)]))


def _inside(target: str, names: Sequence[str]) -> bool:
    return any(target.startswith(f"{name}.") for name in names)
