"""Everything about a convolution that its numbers do not change, worked out once: checks, geometry, types, the plan.

A layer of a network for one image takes a tenth of a millisecond; checking its arguments and choosing a formulation in
Python takes as long. So the result is remembered by the shapes, types and devices of the tensors and by the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops._autograd import Tiles
from dyvision.ops._fast_path import straight_code
from dyvision.ops._tiling import choose_tile
from dyvision.ops.autocast import autocasts, convolution_dtype
from dyvision.ops.empty_batch import empty_output
from dyvision.ops.geometry import Edges, Geometry, Padding, Size, is_channels_last, resolve
from dyvision.ops.kernels import Mixture
from dyvision.ops.measuring import find_fastest, wants_measurement
from dyvision.ops.modes import is_traced, is_watched
from dyvision.ops.plain import PLAIN
from dyvision.ops.planner import forced_formulation, make_plan
from dyvision.ops.problem import Plan, describe_problem

#: signatures that are remembered; beyond it all are forgotten
_MOST = 4096


class Call(NamedTuple):
    """How to compute one convolution.

    Attributes:
        edges: Zeros that the input needs first, because they are not the same on both sides.
        dtype: Type of the convolution.
        geometry: Stride, remaining padding, dilation, groups.
        training: Whether autograd will ask for a backward pass.
        plan: The formulations; None for an empty batch, for which there is nothing to choose.
        tiles: What the two passes of a mixture mix at a time.
        run: All of it for the function's tensors, if the case is common enough for straight-line code.
    """

    edges: Edges | None
    dtype: torch.dtype
    geometry: Geometry
    training: bool
    plan: Plan | None
    tiles: Tiles = (None, None)
    run: Callable[..., Tensor] | None = None

    def ready(self, input: Tensor) -> Tensor:
        """Pad and cast an input."""
        if self.edges is not None:
            input = F.pad(input, self.edges)
        return input if input.dtype == self.dtype else input.to(self.dtype)

    def empty(self, input: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
        """The output of an empty batch."""
        tensors = (input, weight, *others)
        return empty_output(input, weight.shape[1], weight.shape[3:], self.edges, self.geometry, tensors)


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
        key += (None,) if tensor is None else (tensor.shape, tensor.dtype, tensor.device, type(tensor))
    input = tensors[0]
    assert input is not None
    key += (
        torch.get_autocast_dtype(input.device.type) if autocasts(input.device) else None,
        is_channels_last(input) if input.ndim == 4 else None,
        is_watched(),
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


def prepare(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mixture: Mixture | None,
    arguments: Arguments,
    training: bool,
) -> Call:
    """Work out geometry, type, plan, tiles and straight-line code for tensors that have been checked.

    Args:
        input: ``[B, C_in, H, W]``.
        weight: The kernels that are given or mixed, ``[N, C_out, C_in/groups, kH, kW]``.
        bias: As the function takes it.
        mixture: What kernels are mixed from, None if they are given.
        arguments: Of the convolution.
        training: Whether there will be a backward pass.

    Raises:
        ValueError: If an argument is out of range, or the kernel is larger than the padded input.
    """
    edges, geometry = resolve(input.shape, weight.shape[-2:], *arguments)
    dtype, batch = convolution_dtype(input), input.shape[0]
    if not torch.jit.is_tracing() and batch == 0:
        return Call(edges, dtype, geometry, training, None)
    mixed, linear = (0, True) if mixture is None else (weight.shape[0], mixture.taps is None)
    tensors = (input, weight, bias, *(mixture or ()))
    plain = not is_traced() and not is_watched() and all(type(tensor) in PLAIN for tensor in tensors)
    problem = describe_problem(input, weight, geometry, mixed, training, linear, dtype, edges, plain)
    plan = make_plan(problem, find_fastest)
    if is_traced():
        return Call(edges, dtype, geometry, training, plan)
    tiles: Tiles = (None, None)
    if mixture is not None:
        forward = choose_tile(plan.forward, dtype, batch, mixture, geometry)
        tiles = (forward, choose_tile(plan.backward, dtype, batch, mixture, geometry))
    common = edges is None and all(tensor is None or tensor.dtype == dtype for tensor in tensors)
    run = None
    if common and not training and not problem.channels_last and tiles[0] is None:
        run = straight_code(plan.forward, input, weight, bias, mixture, geometry)
    return Call(edges, dtype, geometry, training, plan, tiles, run)
