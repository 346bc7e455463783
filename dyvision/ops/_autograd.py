"""Backward passes that rebuild what they need: neither unfolded inputs nor mixed kernels are kept.

A mixture saves the input, the K kernels and the coefficients, which exist anyway; the ``[B, C_out, C_in, kH, kW]``
kernels are mixed again in the backward pass. Second derivatives (``create_graph=True``) take the plain operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dyvision.ops._formulations import BACKWARD, FORWARD
from dyvision.ops._tiling import convolve_mixture, convolve_mixture_backward
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture


class PerSampleConvolution(torch.autograd.Function):
    """``(input, weight, geometry, forward, backward)``: the names of two formulations."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, geometry: Geometry, forward: str, backward: str) -> Tensor:
        """Compute by the formulation ``forward``."""
        return FORWARD[forward](input, weight, geometry, None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the arguments."""
        ctx.save_for_backward(*inputs[:2])
        ctx.plan = inputs[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute by the formulation ``backward``."""
        input, weight = ctx.saved_tensors
        geometry, forward, backward = ctx.plan
        wanted = list(ctx.needs_input_grad[:2])
        if torch.is_grad_enabled():
            found = _differentiable(lambda x, w: FORWARD[forward](x, w, geometry, None), (input, weight), wanted, grad)
            return *found, None, None, None
        return *BACKWARD[backward](grad, input, weight, geometry, wanted), None, None, None


class MixtureConvolution(torch.autograd.Function):
    """``(input, kernels, coefficients, taps, geometry, forward, backward)``, the input in the convolution's type."""

    @staticmethod
    def forward(
        input: Tensor,
        kernels: Tensor,
        coefficients: Tensor,
        taps: Tensor | None,
        geometry: Geometry,
        forward: str,
        backward: str,
    ) -> Tensor:
        """Mix and compute by the formulation ``forward``."""
        return convolve_mixture(input, Mixture(kernels, coefficients, taps), geometry, forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the arguments."""
        ctx.save_for_backward(*inputs[:4])
        ctx.plan = inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Mix again, and compute by the formulation ``backward``."""
        input, *mixed = ctx.saved_tensors
        geometry, forward, backward = ctx.plan
        wanted = list(ctx.needs_input_grad[:4])
        if torch.is_grad_enabled():

            def plain(x: Tensor, *parts: Tensor) -> Tensor:
                return FORWARD[forward](x, Mixture(*parts).mix().to(x.dtype), geometry, None)

            return *_differentiable(plain, (input, *mixed), wanted, grad), None, None, None
        found = convolve_mixture_backward(grad, input, Mixture(*mixed), geometry, backward, wanted)
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
