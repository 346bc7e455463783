"""Backward passes that rebuild what they need: neither unfolded inputs nor mixed kernels are kept.

A mixture saves the input, the K kernels and the coefficients, which exist anyway; the ``[B, C_out, C_in, kH, kW]``
kernels are mixed again in the backward pass. Second derivatives (``create_graph=True``) take the plain operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dyvision.ops._tiling import Tile, convolve_mixture, convolve_mixture_backward
from dyvision.ops.formulations import TABLE
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture
from dyvision.ops.problem import Plan

#: what the two passes of a mixture go through at a time
Tiles = tuple[Tile | None, Tile | None]


def differentiable_convolution(input: Tensor, weight: Tensor, geometry: Geometry, plan: Plan) -> Tensor:
    """Convolve by a plan; the formulation's backward pass is in the graph, or the operations of its forward pass."""
    row = TABLE[plan.forward]
    if row.backward is None:
        return row.forward(input, weight, geometry, None)
    output: Tensor = _PerSampleConvolution.apply(input, weight, geometry, plan)
    return output


def differentiable_mixture(input: Tensor, mixture: Mixture, geometry: Geometry, plan: Plan, tiles: Tiles) -> Tensor:
    """Convolve with mixtures by a plan, see :func:`differentiable_convolution`; the input in the convolution's type."""
    row = TABLE[plan.forward]
    if row.backward is None:
        return row.convolve_mixture(input, mixture, geometry)
    output: Tensor = _MixtureConvolution.apply(input, *mixture, geometry, plan, tiles)
    return output


class _PerSampleConvolution(torch.autograd.Function):
    """``(input, weight, geometry, plan)``."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, geometry: Geometry, plan: Plan) -> Tensor:
        """Compute by the plan's first formulation."""
        return TABLE[plan.forward].forward(input, weight, geometry, None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the arguments."""
        ctx.save_for_backward(*inputs[:2])
        ctx.constants = inputs[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute by the plan's second formulation."""
        input, weight = ctx.saved_tensors
        geometry, plan = ctx.constants
        wanted = list(ctx.needs_input_grad[:2])
        if torch.is_grad_enabled():
            forward = TABLE[plan.forward].recorded.forward
            found = _differentiable(lambda x, w: forward(x, w, geometry, None), (input, weight), wanted, grad)
            return *found, None, None
        return *TABLE[plan.backward].gradients(grad, input, weight, geometry, wanted), None, None


class _MixtureConvolution(torch.autograd.Function):
    """``(input, kernels, coefficients, taps, geometry, plan, tiles)``, the input in the convolution's type."""

    @staticmethod
    def forward(
        input: Tensor,
        kernels: Tensor,
        coefficients: Tensor,
        taps: Tensor | None,
        geometry: Geometry,
        plan: Plan,
        tiles: Tiles,
    ) -> Tensor:
        """Mix and compute by the plan's first formulation."""
        return convolve_mixture(input, Mixture(kernels, coefficients, taps), geometry, plan.forward, tiles[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the arguments."""
        ctx.save_for_backward(*inputs[:4])
        ctx.constants = inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Mix again, and compute by the plan's second formulation."""
        input, *mixed = ctx.saved_tensors
        geometry, plan, tiles = ctx.constants
        wanted = list(ctx.needs_input_grad[:4])
        if torch.is_grad_enabled():

            def plain(x: Tensor, *parts: Tensor) -> Tensor:
                return TABLE[plan.forward].recorded.convolve_mixture(x, Mixture(*parts), geometry)

            return *_differentiable(plain, (input, *mixed), wanted, grad), None, None, None
        found = convolve_mixture_backward(grad, input, Mixture(*mixed), geometry, plan.backward, tiles[1], wanted)
        return *found, None, None, None


def _differentiable(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], wanted: list[bool], grad: Tensor
) -> list[Tensor | None]:
    """Gradients that can be differentiated again."""
    # partial derivatives: kernels and coefficients depend on the layer's input, too, and autograd would follow them
    # there; it stops at an alias
    aliases = tuple(tensor.view_as(tensor) if want else tensor for tensor, want in zip(inputs, wanted, strict=True))
    chosen = [tensor for tensor, want in zip(aliases, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(function(*aliases), chosen, grad, create_graph=True, allow_unused=True))
    return [next(found) if want else None for want in wanted]
