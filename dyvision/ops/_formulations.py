"""Ways to compute a convolution with one kernel per sample, forwards and backwards; all agree to rounding.

Every function takes ``input [B, C_in, H, W]`` and ``weight [B, C_out, C_in/groups, kH, kW]`` of one type, and a
:class:`Geometry`. The forward functions add a ``bias [B, C_out]`` in place, which autograd would not see. The backward
functions compute what they are asked for from the inputs alone, so nothing of the size of the unfolded input or of the
kernels has to be kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.geometry import Geometry, is_channels_last

Gradients = tuple[Tensor | None, Tensor | None]


def grouped(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Fold the batch into groups: one library convolution with B times as many."""
    batch, out_channels = weight.shape[:2]
    folded = F.conv2d(
        input.reshape(1, -1, *input.shape[-2:]),
        weight.reshape(batch * out_channels, *weight.shape[2:]),
        None if bias is None else bias.reshape(-1),
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        batch * geometry.groups,
    )
    return folded.view(batch, out_channels, *folded.shape[-2:])


def grouped_backward(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Gradients:
    """Gradients of :func:`grouped`; ``mask`` says for which of input and weight."""
    batch = input.shape[0]
    grads = _convolution_backward(
        grad.reshape(1, -1, *grad.shape[-2:]),
        input.reshape(1, -1, *input.shape[-2:]),
        weight.reshape(-1, *weight.shape[2:]),
        geometry,
        batch * geometry.groups,
        mask,
    )
    return _view(grads[0], input), _view(grads[1], weight)


def loop(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """One library convolution per sample."""
    if len(input) == 1:
        return grouped(input, weight, geometry, bias)  # without a copy
    biases = [None] * len(input) if bias is None else bias.unbind()
    outputs = [
        F.conv2d(sample[None], kernel, shift, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        for sample, kernel, shift in zip(input.unbind(), weight.unbind(), biases, strict=True)
    ]
    return torch.cat(outputs)


def loop_backward(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Gradients:
    """Gradients of :func:`loop`."""
    rows = [
        _convolution_backward(g[None], x[None], w, geometry, geometry.groups, mask)
        for g, x, w in zip(grad.unbind(), input.unbind(), weight.unbind(), strict=True)
    ]
    return (
        torch.cat([row[0] for row in rows]) if mask[0] else None,  # type: ignore[misc]
        torch.stack([row[1] for row in rows]) if mask[1] else None,  # type: ignore[misc]
    )


def matmul(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """A matrix product per sample and group, ``[C_out, C_in kH kW] x [C_in kH kW, H'W']``, of the unfolded input."""
    batch = input.shape[0]
    if weight.shape[3] == weight.shape[4] == 1 and geometry.is_pointwise:
        size = input.shape[2:]
        if is_channels_last(input):
            # pixels, not channels, are the rows: nothing is copied on the way to channels first and back
            output = torch.bmm(input.permute(0, 2, 3, 1).flatten(1, 2), weight.flatten(2).transpose(1, 2))
            output = output if bias is None else output.add_(bias.unsqueeze(1))
            return output.view(batch, *size, -1).permute(0, 3, 1, 2)
        output = torch.bmm(weight.flatten(2), input.flatten(2))
    else:
        size = torch.Size(geometry.output_size(input.shape[-2:], weight.shape[-2:]))
        output = torch.bmm(_rows(weight, geometry), columns_of(input, weight.shape[-2:], geometry))
        output = output.view(batch, weight.shape[1], -1)
    # in place: a second map of this size costs as much as the product
    output = output if bias is None else output.add_(bias.unsqueeze(2))
    return output.view(batch, -1, *size)


def matmul_backward(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Gradients:
    """Gradients of :func:`matmul`, two matrix products per sample."""
    rows = _rows(weight, geometry)
    output = grad.reshape(rows.shape[0], rows.shape[1], -1)
    grad_input = grad_weight = None
    if mask[0]:
        grad_columns = torch.bmm(rows.transpose(1, 2), output)
        grad_input = fold_columns(grad_columns, input.shape, weight.shape[-2:], geometry)
    if mask[1]:
        columns = columns_of(input, weight.shape[-2:], geometry)
        grad_weight = torch.bmm(output, columns.transpose(1, 2)).view(weight.shape)
    return grad_input, grad_weight


def shifted(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Depthwise kernels tap by tap: a weighted sum of shifted inputs, with any number of outputs per channel."""
    batch, out_channels = weight.shape[:2]
    per_channel = out_channels // input.shape[1]
    taps = weight.reshape(batch, input.shape[1], per_channel, -1)
    total = None if bias is None else bias.view(batch, input.shape[1], per_channel, 1, 1)
    size = geometry.output_size(input.shape[-2:], weight.shape[-2:])
    for index, view in _shifts(_padded(input, geometry), size, weight.shape[-2:], geometry):
        term = view[:, :, None] * taps[:, :, :, index, None, None]
        total = term if total is None else total + term
    assert total is not None
    return total.flatten(1, 2)


FORWARD: dict[str, Callable[[Tensor, Tensor, Geometry, Tensor | None], Tensor]] = {
    "grouped": grouped,
    "matmul": matmul,
    "unfold": matmul,
    "shifted": shifted,
    "loop": loop,
}
BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor, Geometry, list[bool]], Gradients]] = {
    "grouped": grouped_backward,
    "matmul": matmul_backward,
    "unfold": matmul_backward,
    # a library convolution has a gradient per tap, too
    "shifted": grouped_backward,
    "loop": loop_backward,
}


def _convolution_backward(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, groups: int, mask: list[bool]
) -> Gradients:
    grads = torch.ops.aten.convolution_backward(
        grad,
        input,
        weight,
        None,
        list(geometry.stride),
        list(geometry.padding),
        list(geometry.dilation),
        False,
        [0, 0],
        groups,
        [*mask, False],
    )
    return grads[0] if mask[0] else None, grads[1] if mask[1] else None


def _view(grad: Tensor | None, like: Tensor) -> Tensor | None:
    return None if grad is None else grad.reshape(like.shape)


def _rows(weight: Tensor, geometry: Geometry) -> Tensor:
    """Kernels as matrices ``[B * groups, C_out/groups, C_in/groups * kH * kW]``."""
    batch, out_channels = weight.shape[:2]
    return weight.reshape(batch * geometry.groups, out_channels // geometry.groups, math.prod(weight.shape[2:]))


def columns_of(input: Tensor, kernel: Sequence[int], geometry: Geometry) -> Tensor:
    """What each output position sees, ``[B * groups, C_in/groups * kH * kW, H'W']``."""
    batch = input.shape[0]
    height, width = geometry.output_size(input.shape[-2:], kernel)
    if tuple(kernel) == (1, 1):
        input = _padded(input, geometry)
        if geometry.stride != (1, 1):
            input = input[:, :, :: geometry.stride[0], :: geometry.stride[1]]
        columns = input
    else:
        # faster than F.unfold, which goes through the batch sample by sample
        padded = _padded(input, geometry)
        columns = torch.stack([view for _, view in _shifts(padded, (height, width), kernel, geometry)], 2)
    return columns.reshape(batch * geometry.groups, -1, height * width)


def fold_columns(columns: Tensor, shape: Sequence[int], kernel: Sequence[int], geometry: Geometry) -> Tensor:
    """The transpose of :func:`columns_of`: sum what every output position sends to an input of this shape."""
    batch, channels, height, width = shape
    size = geometry.output_size((height, width), kernel)
    maps = columns.reshape(batch, channels, kernel[0] * kernel[1], *size)
    if tuple(kernel) == (1, 1) and geometry.stride == (1, 1) and geometry.padding == (0, 0):
        return maps[:, :, 0]
    vertical, horizontal = geometry.padding
    padded = maps.new_zeros(batch, channels, height + 2 * vertical, width + 2 * horizontal)
    for index, view in _shifts(padded, size, kernel, geometry):
        view += maps[:, :, index]
    return padded[:, :, vertical : vertical + height, horizontal : horizontal + width]


def _padded(input: Tensor, geometry: Geometry) -> Tensor:
    vertical, horizontal = geometry.padding
    return F.pad(input, (horizontal, horizontal, vertical, vertical)) if vertical or horizontal else input


def _shifts(
    padded: Tensor, size: Sequence[int], kernel: Sequence[int], geometry: Geometry
) -> Iterator[tuple[int, Tensor]]:
    """Per tap of the kernel, what it sees of the padded input: a view ``[B, C_in, H', W']``."""
    (height, width), (down, right), (dilation, across) = size, geometry.stride, geometry.dilation
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            top, left = row * dilation, column * across
            rows = slice(top, top + (height - 1) * down + 1, down)
            yield row * kernel[1] + column, padded[:, :, rows, left : left + (width - 1) * right + 1 : right]
