"""What an ONNX file has in place of a convolution with one kernel per sample.

In ONNX Runtime (``benchmarks/onnx_runtime.py``) a ``Scan`` over the samples around an ordinary ``Conv`` takes less time
than products of the unfolded input, sums over the taps, or all K kernels at once, and it works with any batch. A step
costs two microseconds. One sample needs no ``Scan``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch

from dyvision.export._packages import need

#: ``(operator, inputs, attributes)`` to the output of a new node
_Make = Callable[[str, Sequence[Any], dict[str, Any]], Any]
#: what makes the kernel of one sample from what is this sample's
_Kernel = Callable[[_Make, Sequence[Any]], Any]

_numbers = count()


def translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export``: the operators of the formulation ``scan`` and their ONNX form."""
    return {
        torch.ops.dyvision.conv2d_by_sample.default: _conv2d_by_sample,
        torch.ops.dyvision.mixture_by_sample.default: _mixture_by_sample,
    }


def _conv2d_by_sample(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """Nodes for ``onnx_ir`` values of the operator's tensors."""
    attributes = _attributes(weight.shape[3:], stride, padding, dilation, groups)
    return _by_sample(input, [weight], bias, lambda make, own: own[0], attributes)


def _mixture_by_sample(
    input: Any,
    bank: Any,
    coefficients: Any,
    factors: Any,
    bias: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    op = need("onnxscript")[0].opset18
    shape = op.Constant(value_ints=list(kernel))
    rows = None if factors is None else op.Constant(value_ints=[kernel[0], -1])

    def mix(make: _Make, own: Sequence[Any]) -> Any:
        # a product with three axes: ONNX Runtime copies a constant matrix of two, in whose order it is slower to read
        mixed = make("MatMul", [own[0], bank], {})
        if rows is not None:
            mixed = make("Mul", [make("Reshape", [mixed, rows], {}), own[1]], {})
        return make("Reshape", [mixed, shape], {})

    own = [coefficients] if factors is None else [coefficients, factors]
    return _by_sample(input, own, bias, mix, _attributes(kernel[2:], stride, padding, dilation, groups))


def _attributes(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> dict[str, Any]:
    return {
        "kernel_shape": list(kernel),
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": groups,
    }


def _by_sample(input: Any, own: list[Any], bias: Any, kernel: _Kernel, attributes: dict[str, Any]) -> Any:
    """Convolve each sample of ``input [B, C_in, H, W]`` with the kernel made of its entries of ``own``.

    Args:
        input: The images.
        own: Tensors with one entry per sample.
        bias: ``[C_out]``, ``[B, C_out]`` or None.
        kernel: Makes the kernel.
        attributes: Of the ``Conv``.
    """
    op = need("onnxscript")[0].opset18
    has_own_bias = bias is not None and len(bias.shape) == 2
    if has_own_bias:
        own = [*own, bias]
    first = op.Constant(value_ints=[0])
    if input.shape[0] == 1:
        entries = [op.Squeeze(tensor, first) for tensor in own]
        made = kernel(lambda name, inputs, more: getattr(op, name)(*inputs, **more), entries)
        return op.Conv(input, made, entries[-1] if has_own_bias else bias, **attributes)
    # each step gets a batch of one: nothing has to be reshaped, which is a copy of a body's input or output
    second = op.Constant(value_ints=[1])
    scanned = [op.Unsqueeze(input, second), *own]
    body = _body(input, own, None if has_own_bias else bias, has_own_bias, kernel, attributes)
    return op.Squeeze(op.Scan(*scanned, body=body, num_scan_inputs=len(scanned)), second)


def _body(
    input: Any, own: Sequence[Any], bias: Any, has_own_bias: bool, kernel: _Kernel, attributes: dict[str, Any]
) -> Any:
    """The graph of one step: ``x [1, C_in, H, W]`` with what is this sample's."""
    (ir,) = need("onnxscript.ir")
    number = next(_numbers)
    nodes: list[Any] = []

    def value(name: str, shape: Sequence[Any]) -> Any:
        return ir.Value(name=f"{name}_of_{number}", shape=ir.Shape(shape), type=ir.TensorType(input.dtype))

    def make(name: str, inputs: Sequence[Any], more: dict[str, Any]) -> Any:
        nodes.append(ir.node(name, inputs, more))
        (output,) = nodes[-1].outputs
        output.name, output.type = f"step_{len(nodes)}_of_{number}", ir.TensorType(input.dtype)
        return output

    image = value("image", (1, *input.shape[1:]))
    entries = [value(f"entry_{index}", tensor.shape[1:]) for index, tensor in enumerate(own)]
    operands = [image, kernel(make, entries)]
    if has_own_bias:
        operands.append(entries[-1])
    elif bias is not None:
        operands.append(bias)
    output = make("Conv", operands, attributes)
    return ir.Graph([image, *entries], [output], nodes=nodes, name=f"sample_{number}")
