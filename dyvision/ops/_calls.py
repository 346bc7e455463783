"""Everything about a convolution that its numbers do not change, worked out once: checks, geometry, types, the plan.

A layer of a network for one image takes a tenth of a millisecond; checking its arguments and choosing a formulation in
Python takes as long. So the result is remembered by the shapes, types and devices of the tensors and by the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops._geometry import Edges, Geometry, Padding, Size, is_channels_last
from dyvision.ops.mixing import autocasts
from dyvision.ops.planner import Plan, forced_formulation, wants_measurement

#: signatures that are remembered; beyond it all are forgotten
_MOST = 4096


class Call(NamedTuple):
    """How to compute one convolution.

    Attributes:
        edges: Zeros that the input needs first, because they are not the same on both sides.
        dtype: Type of the convolution.
        geometry: Stride, remaining padding, dilation, groups.
        training: Whether autograd will ask for a backward pass.
        plan: The formulations.
        tiled: Whether kernels are mixed in parts.
        run: All of it for the function's tensors, if the case is common enough for straight-line code.
    """

    edges: Edges | None
    dtype: torch.dtype
    geometry: Geometry
    training: bool
    plan: Plan
    tiled: bool = False
    run: Callable[..., Tensor] | None = None

    def ready(self, input: Tensor) -> Tensor:
        """Pad and cast an input."""
        if self.edges is not None:
            input = F.pad(input, self.edges)
        return input if input.dtype == self.dtype else input.to(self.dtype)


_calls: dict[object, Call] = {}


def remember(
    work_out: Callable[..., Call],
    tensors: tuple[Tensor | None, ...],
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
) -> Call:
    """Return ``work_out(*tensors, stride, padding, dilation, groups, training)`` of an earlier call with such tensors.

    Args:
        work_out: Checks the arguments and plans; may depend on the values of no tensor.
        tensors: The first is the input.
        stride: Int or pair.
        padding: Int, pair or string.
        dilation: Int or pair.
        groups: Number of groups.
    """
    training = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    if torch.compiler.is_compiling():
        return work_out(*tensors, stride, padding, dilation, groups, training)
    key: list[object] = [work_out, stride, padding, dilation, groups, training]
    for tensor in tensors:
        key += (None,) if tensor is None else (tensor.shape, tensor.dtype, tensor.device)
    input = tensors[0]
    assert input is not None
    key += (
        torch.get_autocast_dtype(input.device.type) if autocasts(input.device) else None,
        is_channels_last(input) if input.ndim == 4 else None,
        forced_formulation(),
        wants_measurement(),
    )
    try:
        call = _calls.get(tuple(key))
    except TypeError:  # a list of integers
        return work_out(*tensors, stride, padding, dilation, groups, training)
    if call is None:
        call = work_out(*tensors, stride, padding, dilation, groups, training)
        if len(_calls) >= _MOST:
            _calls.clear()
        _calls[tuple(key)] = call
    return call


def convolution_dtype(input: Tensor) -> torch.dtype:
    """The input's type, or under autocast the one that autocast has for a convolution."""
    if input.dtype != torch.float64 and autocasts(input.device):
        return torch.get_autocast_dtype(input.device.type)
    return input.dtype
