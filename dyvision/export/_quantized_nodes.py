"""Which nodes of an exported file get 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

#: what has weights; 8 bits make these faster
_LAYERS = ("Conv", "Gemm", "MatMul")
#: what stays in 8 bits between two of them, so that numbers are not converted back and forth
_BETWEEN = ("Add", "AveragePool", "Clip", "GlobalAveragePool", "MaxPool", "Relu")
#: where the branch of a dynamic layer begins
_POOLING = ("AveragePool", "GlobalAveragePool", "ReduceMean")


class Chosen(NamedTuple):
    """Names of nodes with 8 bits, and how many of them have weights."""

    all: list[str]
    layers: int


def choose_nodes(model: Any, file: str, keep: Sequence[str] = ()) -> tuple[Chosen, int]:
    """Choose the layers with fixed weights that compute no kernels, and what is between them.

    Args:
        model: The ONNX model; nodes without a name get one.
        file: Its name, for messages.
        keep: Patterns of names of weights whose layers are left out.

    Returns:
        What is chosen, and how many layers are not.

    Raises:
        ValueError: If the file is quantised, a pattern matches nothing, or nothing is left.
    """
    graph = model.graph
    for number, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        raise ValueError(f"{file} is quantised already: give the float32 file that it was made from")
    weights = {value.name for value in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    kernels = _that_compute_kernels(graph, weights, producer)
    fixed = {
        node.name: str(next(name for name in node.input[:2] if name in weights))
        for node in graph.node
        if node.op_type in _LAYERS and node.name not in kernels and _has_fixed_weight(node, weights)
    }
    for pattern in keep:
        if not any(_matches(weight, pattern) for weight in fixed.values()):
            some = ", ".join(list(fixed.values())[:3]) or "none"
            raise ValueError(f"keep={pattern!r}: no layer of {file} has such a name; names that it has: {some}, ...")
    layers = {name for name, weight in fixed.items() if not any(_matches(weight, pattern) for pattern in keep)}
    if not layers:
        raise ValueError(
            f"{file} has no layer to quantise: {len(fixed)} with fixed weights, all kept in float32"
            if fixed
            else f"{file} has no layer with fixed weights: collapse the network first (dyvision.collapse)"
        )
    chosen = set(layers)
    for node in graph.node:  # in the order of computation
        sources = [producer.get(name) for name in node.input if name and name not in weights]
        numbers = [one for one in sources if one is not None and one.op_type != "Constant"]
        if (
            node.op_type in _BETWEEN
            and node.name not in kernels
            and numbers
            and all(one.name in chosen for one in numbers)
        ):
            chosen.add(node.name)
    total = sum(node.op_type in _LAYERS for node in _all_nodes(graph))
    return Chosen(sorted(chosen), len(layers)), total - len(layers)


def _matches(weight: str, pattern: str) -> bool:
    return fnmatch(weight, pattern) or fnmatch(weight.removesuffix(".weight"), pattern)


def _has_fixed_weight(node: Any, weights: set[str]) -> bool:
    if node.op_type == "MatMul":
        return sum(name in weights for name in node.input) == 1
    return node.input[1] in weights


def _that_compute_kernels(graph: Any, weights: set[str], producer: dict[str, Any]) -> set[str]:
    """Nodes from a pooling to a kernel that is computed for each sample, or to convolutions that are mixed instead."""
    left = []
    found: set[str] = set()
    factors = {node.output[0] for node in graph.node if node.op_type == "Gather" and node.input[0] not in weights}
    for node in graph.node:
        if node.op_type == "Scan":
            left += list(node.input)[1:]
        elif node.op_type == "Conv":
            left += [name for name in node.input[1:] if name not in weights]
        elif node.op_type == "Mul" and not factors.isdisjoint(node.input):
            # one of a mixture's convolutions, whose input or output is scaled by its coefficient
            scaled = [
                other.name
                for other in graph.node
                if other.op_type == "Conv" and (other.input[0] == node.output[0] or other.output[0] in node.input)
            ]
            found.update(scaled)
            left += factors.intersection(node.input) if scaled else []
    while left:
        node = producer.get(left.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            left += [] if node.op_type in _POOLING else list(node.input)
    return found


def _all_nodes(graph: Any) -> Iterator[Any]:
    """Nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)
