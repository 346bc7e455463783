"""What an ONNX file has in place of a convolution with one kernel per sample.

In ONNX Runtime (``benchmarks/onnx_runtime.py``) a ``Scan`` over the samples around an ordinary ``Conv`` takes less time
than products of the unfolded input, sums over the taps, or all K kernels at once, and it works with any batch. One
sample needs no ``Scan``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch

from dyvision.export._packages import need

_numbers = count()


def translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export``: the operator of the formulation ``scan`` and its ONNX form."""
    return {torch.ops.dyvision.conv2d_by_sample.default: _conv2d_by_sample}


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
    op = need("onnxscript")[0].opset18
    attributes = {
        "kernel_shape": list(weight.shape[3:]),
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": groups,
    }
    first = op.Constant(value_ints=[0])
    if input.shape[0] == 1:
        if bias is not None and len(bias.shape) == 2:
            bias = op.Squeeze(bias, first)
        return op.Conv(input, op.Squeeze(weight, first), bias, **attributes)
    # each step gets a batch of one: nothing has to be reshaped, which is a copy of a body's input or output
    second = op.Constant(value_ints=[1])
    scanned = [op.Unsqueeze(input, second), weight]
    if bias is not None and len(bias.shape) == 2:
        scanned.append(bias)
    steps = op.Scan(*scanned, body=_body(input, weight, bias, attributes), num_scan_inputs=len(scanned))
    return op.Squeeze(steps, second)


def _body(input: Any, weight: Any, bias: Any, attributes: dict[str, Any]) -> Any:
    """The graph of one step: ``x [1, C_in, H, W]`` with its kernel, and its bias if each sample has one."""
    (ir,) = need("onnxscript.ir")
    number = next(_numbers)

    def value(name: str, shape: Sequence[Any]) -> Any:
        return ir.Value(name=f"{name}_of_{number}", shape=ir.Shape(shape), type=ir.TensorType(input.dtype))

    inputs = [value("image", (1, *input.shape[1:])), value("kernel", weight.shape[1:])]
    operands = list(inputs)
    if bias is not None and len(bias.shape) == 2:
        inputs.append(value("bias", bias.shape[1:]))
        operands.append(inputs[-1])
    elif bias is not None:
        operands.append(bias)
    node = ir.node("Conv", operands, attributes)
    (output,) = node.outputs
    output.name, output.type = f"map_of_{number}", ir.TensorType(input.dtype)
    return ir.Graph(inputs, [output], nodes=[node], name=f"sample_{number}")
