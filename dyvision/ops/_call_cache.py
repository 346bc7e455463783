"""Everything about a convolution that its numbers do not change, worked out once: checks, geometry, types, the plan.

A layer of a network for one image takes a tenth of a millisecond; checking its arguments and choosing a formulation in
Python takes as long. So the result is remembered by the shapes, types and devices of the tensors and by the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.autocast import autocasts
from dyvision.ops.geometry import Edges, Geometry, Padding, Size, is_channels_last, resolve
from dyvision.ops.modes import is_traced
from dyvision.ops.planner import EMPTY, Plan, describe_problem, forced_formulation, make_plan, wants_measurement

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
        plain: Whether inference needs neither padding before nor conversions of the tensors.
        tiled: Whether kernels are mixed in parts.
        run: All of it for the function's tensors, if the case is common enough for straight-line code.
    """

    edges: Edges | None
    dtype: torch.dtype
    geometry: Geometry
    training: bool
    plan: Plan
    plain: bool
    tiled: bool = False
    run: Callable[..., Tensor] | None = None

    def ready(self, input: Tensor) -> Tensor:
        """Pad and cast an input."""
        if self.edges is not None:
            input = F.pad(input, self.edges)
        return input if input.dtype == self.dtype else input.to(self.dtype)

    def empty(self, input: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
        """The output of an empty batch; every tensor gets a gradient of zeros, as from a library convolution."""
        size = self.geometry.output_size(self.ready(input).shape[2:], weight.shape[3:])
        output = input.new_zeros((0, weight.shape[1], *size), dtype=self.dtype)
        return follow(output, (input, weight, *others)) if self.training else output


def follow(output: Tensor, tensors: Iterable[Tensor | None]) -> Tensor:
    """An empty output as a function of some tensors, so that each gets a gradient, of zeros."""
    for tensor in tensors:
        if tensor is not None and tensor.requires_grad:
            output = output + 0 * tensor.sum().to(output.dtype)
    return output


#: the input, the kernels, and what else a function takes
Tensors = tuple[Tensor | None, ...]
#: stride, padding, dilation, groups, as a caller gives them
Arguments = tuple[Size, Padding, Size, int]

_calls: dict[object, Call] = {}


def remember(work_out: Callable[[Any, Arguments, bool], Call], tensors: Tensors, arguments: Arguments) -> Call:
    """Return what ``work_out(tensors, arguments, training)`` was for an earlier call with such tensors.

    Args:
        work_out: Checks the arguments and plans; may depend on the values of no tensor.
        tensors: The first is the input.
        arguments: Of the convolution.
    """
    training = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    if is_traced():
        return work_out(tensors, arguments, training)
    key: list[object] = [work_out, arguments, training]
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
        return work_out(tensors, arguments, training)
    if call is None:
        call = work_out(tensors, arguments, training)
        if len(_calls) >= _MOST:
            _calls.clear()
        _calls[tuple(key)] = call
    return call


def prepare(tensors: Tensors, arguments: Arguments, training: bool, mixed: int = 0, linear: bool = True) -> Call:
    """Work out geometry, type and plan for tensors that have been checked.

    Args:
        tensors: The input, the kernels ``[N, C_out, C_in/groups, kH, kW]``, and others.
        arguments: Of the convolution.
        training: Whether there will be a backward pass.
        mixed: Number of kernels that are mixed, 0 if they are given.
        linear: Whether outputs can be mixed instead of kernels.

    Raises:
        ValueError: If an argument is out of range, or the kernel is larger than the padded input.
    """
    input, weight = tensors[:2]
    assert input is not None and weight is not None
    edges, geometry = resolve(input, weight.shape[-2:], *arguments)
    dtype = input.dtype
    if dtype != torch.float64 and autocasts(input.device):
        dtype = torch.get_autocast_dtype(input.device.type)
    if not torch.jit.is_tracing() and input.shape[0] == 0:
        return Call(edges, dtype, geometry, training, Plan(EMPTY, EMPTY), plain=False)
    problem = describe_problem(input, weight, geometry, mixed, training, linear, dtype, edges)
    plain = edges is None and all(tensor is None or tensor.dtype == dtype for tensor in tensors)
    plain = plain and not (training or problem.channels_last or is_traced())
    return Call(edges, dtype, geometry, training, make_plan(problem), plain)
