"""1x1 convolution with a mixture of kernels per sample, without a kernel per sample in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dyvision.ops.triton._layout import empty_like


def mixture_pointwise(input: Tensor, kernels: Tensor, coefficients: Tensor) -> Tensor:
    """Convolve each sample with its mixture of K 1x1 kernels: ``output[b] = (sum_k c[b, k] W_k) input[b]``.

    Kernels are mixed in float32 and rounded to the input's type for the product, which is summed in float32. The
    gradients of kernels and coefficients, too, are summed in float32 and in a fixed order.

    Args:
        input: ``[B, C_in, H, W]``, of any strides.
        kernels: ``[K, C_out, C_in, 1, 1]``.
        coefficients: ``[B, K]``, or ``[B, K, C_out]`` for one mixture per output channel.

    Returns:
        ``[B, C_out, H, W]`` in the input's type and memory format.
    """
    return apply_mixture(input, kernels.flatten(2), coefficients, False)


@torch.library.custom_op(
    "dyvision::mixture_pointwise",
    mutates_args=(),
    schema="(Tensor input, Tensor kernels, Tensor coefficients, bool transposed) -> Tensor",
)
def apply_mixture(input: Tensor, kernels: Tensor, coefficients: Tensor, transposed: bool) -> Tensor:
    """Multiply each sample by its mixture of matrices.

    Args:
        input: ``[B, C_in, H, W]``, or ``[B, C_out, H, W]`` if ``transposed``.
        kernels: ``[K, C_out, C_in]``.
        coefficients: ``[B, K]`` or ``[B, K, C_out]``.
        transposed: Multiply by the transpose of the mixture.

    Returns:
        ``[B, C_out, H, W]``, or ``[B, C_in, H, W]`` if ``transposed``.
    """
    from dyvision.ops.triton._pointwise_kernels import apply

    return apply(input, kernels, coefficients, transposed)


@apply_mixture.register_fake
def _(input: Tensor, kernels: Tensor, coefficients: Tensor, transposed: bool) -> Tensor:
    return empty_like(input, kernels.shape[2 if transposed else 1], *input.shape[-2:])


@torch.library.custom_op(
    "dyvision::mixture_pointwise_weights",
    mutates_args=(),
    schema="(Tensor grad, Tensor input, Tensor kernels, Tensor coefficients) -> (Tensor, Tensor)",
)
def reduce_mixture(grad: Tensor, input: Tensor, kernels: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of kernels and coefficients.

    Args:
        grad: Gradient of the output, ``[B, C_out, H, W]``.
        input: ``[B, C_in, H, W]``.
        kernels: ``[K, C_out, C_in]``.
        coefficients: ``[B, K]`` or ``[B, K, C_out]``.

    Returns:
        Gradients with the shapes and types of ``kernels`` and ``coefficients``.
    """
    from dyvision.ops.triton._pointwise_kernels import reduce

    return reduce(grad, input, kernels, coefficients)


@reduce_mixture.register_fake
def _(grad: Tensor, input: Tensor, kernels: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    return kernels.new_empty(kernels.shape), coefficients.new_empty(coefficients.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.transposed = inputs[3]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, kernels, coefficients = ctx.saved_tensors
    d_input = d_kernels = d_coefficients = None
    if ctx.needs_input_grad[0]:
        d_input = apply_mixture(grad, kernels, coefficients, not ctx.transposed)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        # of a transposed product the output has the kernel's columns
        pair = (input, grad) if ctx.transposed else (grad, input)
        d_kernels, d_coefficients = reduce_mixture(*pair, kernels, coefficients)
    return d_input, d_kernels, d_coefficients, None


apply_mixture.register_autograd(_backward, setup_context=_save)
