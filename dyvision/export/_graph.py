"""What is done to the exported graph: activations into the steps before them, sizes on every convolution, names."""

from __future__ import annotations

from typing import Any

from dyvision.export._packages import need

#: element by element, so that they can be part of the step that makes the elements; a runtime fuses them with its Conv
_ACTIVATIONS = ("Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
#: what only reorders numbers
_LAYOUT = ("Reshape", "Transpose")


def tidy(model: Any) -> None:
    """Simplify an ``onnx_ir`` model in place; its outputs stay."""
    for node in list(model.graph):
        if node.op_type in _LAYOUT:
            _apply_layout(node)
    for node in list(model.graph):
        if node.op_type == "Scan":
            _take_activation(node)
    for node in list(model.graph):
        if node.op_type == "Unsqueeze":
            _drop_pair(node)
    for value in list(model.graph.initializers.values()):
        _move_into_body(value)
    for node in model.graph.all_nodes():
        if node.op_type == "Conv" and "kernel_shape" not in node.attributes:
            shape = node.inputs[1].shape
            if shape is not None:
                node.attributes.add(need("onnxscript.ir")[0].AttrInt64s("kernel_shape", list(shape[2:])))


def _apply_layout(node: Any) -> None:
    """Store parameters in the order in which they are used: the bank of a mixture has its parts side by side."""
    source, (output,) = node.inputs[0], node.outputs
    graph = node.graph
    if not source.is_initializer() or source.const_value is None or output.is_graph_output():
        return
    if len(source.uses()) > 1:  # a second copy would be stored
        return
    numbers = source.const_value.numpy()
    if node.op_type == "Transpose":
        numbers = numbers.transpose(node.attributes["perm"].as_ints())
    else:
        sizes = node.inputs[1].const_value
        if sizes is None:
            return
        old, new = numbers.shape, sizes.numpy().tolist()
        numbers = numbers.reshape([old[axis] if size == 0 else size for axis, size in enumerate(new)])
    (ir,) = need("onnxscript.ir")
    stored = ir.Value(name=f"{source.name}_{node.op_type.lower()}", const_value=ir.tensor(numbers.copy()))
    stored.shape, stored.dtype = ir.Shape(numbers.shape), source.dtype
    output.replace_all_uses_with(stored)
    graph.remove(node, safe=True)
    graph.initializers.pop(source.name)
    graph.register_initializer(stored)


def _take_activation(scan: Any) -> None:
    """Move the activation behind a ``Scan`` into its body: ``Scan, Squeeze, Relu`` becomes ``Scan(Relu), Squeeze``."""
    squeeze = _only_user(scan.outputs[0])
    if squeeze is None or squeeze.op_type != "Squeeze":
        return
    after = _only_user(squeeze.outputs[0])
    if after is None or after.op_type not in _ACTIVATIONS or after.inputs[0] is not squeeze.outputs[0]:
        return
    (ir,) = need("onnxscript.ir")
    body = scan.attributes["body"].value
    (before,) = body.outputs
    inside = ir.Node(
        after.domain, after.op_type, [before, *after.inputs[1:]], attributes=after.attributes.values(), num_outputs=1
    )
    (output,) = inside.outputs
    output.name, output.type = f"{before.name}_activated", before.type
    body.append(inside)
    body.outputs[0] = output
    after.outputs[0].replace_all_uses_with(squeeze.outputs[0], replace_graph_outputs=True)
    after.graph.remove(after, safe=True)


def _move_into_body(value: Any) -> None:
    """Let a constant be the body's that alone uses it: ONNX Runtime stores only those in blocks of channels."""
    graphs = {use.node.graph for use in value.uses()}
    if len(graphs) != 1 or value.is_graph_output():
        return
    (body,) = graphs
    if body is not value.graph:
        value.graph.initializers.pop(value.name)
        body.register_initializer(value)


def _drop_pair(unsqueeze: Any) -> None:
    """Let ``Unsqueeze`` go where it undoes a ``Squeeze``."""
    squeeze = unsqueeze.inputs[0].producer()
    if squeeze is None or squeeze.op_type != "Squeeze" or _axes(squeeze) is None or _axes(squeeze) != _axes(unsqueeze):
        return
    unsqueeze.outputs[0].replace_all_uses_with(squeeze.inputs[0])
    unsqueeze.graph.remove(unsqueeze, safe=True)
    if not squeeze.outputs[0].uses() and not squeeze.outputs[0].is_graph_output():
        squeeze.graph.remove(squeeze, safe=True)


def _axes(node: Any) -> list[int] | None:
    constant = node.inputs[1].const_value
    return None if constant is None else [int(axis) for axis in constant.numpy().reshape(-1)]


def _only_user(value: Any) -> Any:
    users = value.uses()
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def name_sizes(model: Any, names: dict[int, str]) -> None:
    """Call the free sizes of the input by ``names`` (by axis), wherever they appear.

    Raises:
        ValueError: If one of them is no longer free.
    """
    (ir,) = need("onnxscript.ir")
    (image,) = model.graph.inputs
    new: dict[str, str] = {}
    for axis, name in names.items():
        size = image.shape[axis]
        if isinstance(size, int):
            raise ValueError(f"the network holds for one {name} only ({size}): export it with a fixed one")
        new[str(size.value)] = name
    for value in (*model.graph.inputs, *model.graph.outputs):
        sizes = [ir.SymbolicDim(new[str(s.value)]) if getattr(s, "value", s) in new else s for s in value.shape]
        value.shape = ir.Shape(sizes)


def drop_outputs(model: Any, first: int) -> None:
    """Keep the first outputs only; what leads to them stays."""
    del model.graph.outputs[first:]


def count_nodes(model: Any) -> int:
    """Nodes of the graph and of the bodies in it."""
    return sum(1 for _ in model.graph.all_nodes())
