"""What an ONNX file has in place of a convolution with one kernel per sample.

In ONNX Runtime (``benchmarks/exported.py``) a ``Scan`` over the samples around an ordinary ``Conv`` takes less time
than products of the unfolded input, sums over the taps, or all K kernels for the whole batch at once, and it works with
any batch. One sample needs no ``Scan``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import count
from typing import Any

import torch

from dyvision.export._packages import need

_numbers = count()

#: makes a node: ``(operator, inputs, attributes)`` to its output
Make = Callable[[str, Sequence[Any], dict[str, Any]], Any]
#: makes the nodes for one sample: ``(make, image [1, C_in, H, W], its operands)`` to ``[1, C_out, H', W']``
Step = Callable[..., Any]
#: what each sample has of its own, ``[B, ...]``, and in which shape a step takes it
Operand = tuple[Any, list[int]]


def translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export``: the operators of the formulation ``scan`` and their ONNX forms."""
    return {
        torch.ops.dyvision.conv2d_by_sample.default: _conv2d_by_sample,
        torch.ops.dyvision.mixture_by_sample.default: _mixture_by_sample,
    }


def _conv2d_by_sample(
    input: Any,
    weight: Any,
    factors: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """Nodes for ``onnx_ir`` values of the operator's tensors."""
    shape = list(weight.shape[1:])
    attributes = _attributes(shape, stride, padding, dilation, groups)
    row = None if factors is None else factors.shape[1]

    def step(make: Make, image: Any, kernel: Any, *others: Any) -> Any:
        rest = list(others)
        if row is not None:
            # one sample's kernel, which may stay in the cache until it is used
            scaled = make("Mul", [kernel, rest.pop(0)], {})
            kernel = make("Reshape", [scaled, make("Constant", [], {"value_ints": shape})], {})
        return make("Conv", [image, kernel, rest[0] if rest else bias], attributes)

    operands = [(weight, shape)] if row is None else [(weight, [math.prod(shape) // row, row]), (factors, [row])]
    return _by_sample(step, input, operands + _of_samples(bias))


def _mixture_by_sample(
    input: Any,
    kernels: Any,
    coefficients: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """The sum of K convolutions with constant kernels, of which the smaller map is scaled: the input or the output."""
    attributes = _attributes(kernels.shape[1:], stride, padding, dilation, groups)
    scales_input = list(stride) == [1, 1]

    def step(make: Make, image: Any, factors: Any, own_bias: Any = None) -> Any:
        def constant(**value: Any) -> Any:
            return make("Constant", [], value)

        def scale(map: Any, index: int) -> Any:
            return make("Mul", [map, make("Gather", [factors, constant(value_ints=[index])], {})], {})

        def convolve(map: Any, index: int, bias: Any = None) -> Any:
            # a runtime takes the kernel out of the constant bank when it loads the file
            kernel = make("Gather", [kernels, constant(value_int=index)], {})
            return make("Conv", [map, kernel, bias], attributes)

        numbers = range(kernels.shape[0])
        if scales_input:
            # in ONNX Runtime each of them adds to what is there, and the first can add what is constant
            shared, rest = (bias, None) if own_bias is None else (None, own_bias)
            terms = [convolve(scale(image, k), k, None if k else shared) for k in numbers]
        else:
            terms, rest = [scale(convolve(image, k), k) for k in numbers], bias if own_bias is None else own_bias
        if rest is not None:
            terms.append(make("Unsqueeze", [rest, constant(value_ints=[1, 2])], {}))
        return reduce(lambda one, other: make("Add", [one, other], {}), terms)

    return _by_sample(step, input, [(coefficients, [kernels.shape[0]]), *_of_samples(bias)])


def _attributes(
    shape: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> dict[str, Any]:
    return {
        "kernel_shape": list(shape[2:]),
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": groups,
    }


def _of_samples(bias: Any) -> list[Operand]:
    """The bias among what each sample has of its own, if it is."""
    return [(bias, list(bias.shape[1:]))] if bias is not None and len(bias.shape) == 2 else []


def _by_sample(step: Step, input: Any, operands: Sequence[Operand]) -> Any:
    """The nodes of ``step`` for one sample, or a ``Scan`` around them."""
    op = need("onnxscript")[0].opset18

    def make(kind: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
        return getattr(op, kind)(*inputs, **attributes)

    if input.shape[0] == 1:
        return step(make, input, *(op.Reshape(value, op.Constant(value_ints=shape)) for value, shape in operands))
    # each step gets a batch of one: nothing has to be reshaped, which is a copy of a body's input or output
    second = op.Constant(value_ints=[1])
    scanned = [op.Unsqueeze(input, second)]
    for value, shape in operands:
        fits = list(value.shape[1:]) == shape
        scanned.append(value if fits else op.Reshape(value, op.Constant(value_ints=[0, *shape])))
    body = _body(step, input, [shape for _, shape in operands])
    return op.Squeeze(op.Scan(*scanned, body=body, num_scan_inputs=len(scanned)), second)


def _body(step: Step, input: Any, shapes: Sequence[Sequence[int]]) -> Any:
    """The graph of one step."""
    (ir,) = need("onnxscript.ir")
    suffix = f"of_{next(_numbers)}"
    kind = ir.TensorType(input.dtype)
    inputs = [
        ir.Value(name=f"operand_{index}_{suffix}", shape=ir.Shape(shape), type=kind)
        for index, shape in enumerate([(1, *input.shape[1:]), *shapes])
    ]
    tape = ir.tape.Tape()
    output = step(tape.op, *inputs)
    for index, node in enumerate(tape.nodes):  # names of a body must not be those of the graph around it
        node.outputs[0].name = f"{node.op_type.lower()}_{index}_{suffix}"
    output.type = kind
    return ir.Graph(inputs, [output], nodes=tape.nodes, name=f"sample_{suffix}")
