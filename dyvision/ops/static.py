"""Ordinary convolutions for inference, which kernels of our own compute where that is faster than the library."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Size as Shape
from torch import Tensor

from dyvision.ops import native
from dyvision.ops.geometry import Padding, Size, resolve
from dyvision.ops.plain import is_plain_inference


def static_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    arguments: tuple[Size, Padding, Size, int],
    activation: str = "none",
) -> Tensor | None:
    """Convolve all samples with one kernel.

    Args:
        input: ``[B, C_in, H, W]``.
        weight: ``[C_out, C_in/groups, kH, kW]``.
        bias: ``[C_out]`` or None.
        arguments: Stride, padding, dilation and groups.
        activation: One of :data:`dyvision.ops.native.ACTIVATIONS`, applied to the output.

    Returns:
        ``[B, C_out, H', W']``; None where a call is no plain inference, or the library is faster.
    """
    if not is_plain_inference(input, (weight, bias)):
        return None
    prepared = _prepare(input.shape, weight.shape, None if bias is None else bias.shape, arguments, activation)
    if prepared is None:
        return None
    convolve, ones = prepared
    return convolve(input, weight, ones, bias)


@lru_cache(4096)
def _prepare(
    shape: Shape,
    kernel_shape: Shape,
    bias_shape: Shape | None,
    arguments: tuple[Size, Padding, Size, int],
    activation: str,
) -> tuple[native.Convolution, Tensor] | None:
    """What computes tensors of these shapes, and the coefficients of the one kernel; None if the library is faster."""
    if len(shape) != 4 or len(kernel_shape) != 4:
        return None
    outputs, depth, *kernel = kernel_shape
    groups = arguments[3]
    if shape[1] != depth * groups or outputs % groups or bias_shape not in (None, (outputs,)):
        return None  # the library says what is wrong
    edges, geometry = resolve(shape, kernel, *arguments)
    pixels = geometry.output_size(shape[2:], kernel)
    if edges is not None or not _leads(shape[0], pixels[0] * pixels[1], kernel == [1, 1] or groups > 1):
        return None
    kind = "none" if bias_shape is None else "channels"
    size = (shape[2], shape[3])
    convolve = native.convolution(
        shape[0], size, tuple(kernel_shape), geometry, mixed=1, bias=kind, activation=activation
    )
    return None if convolve is None else (convolve, torch.ones(shape[0], 1, dtype=torch.float32, device="cpu"))


def _leads(batch: int, pixels: int, sparse: bool) -> bool:
    """Where it was faster than the library, of 26 shapes at batch 1 and 8 (AMD EPYC, AVX-512)."""
    # blocks of channels, which the library's dense kernels compute at a time, leave no pixel of a small map unused
    return sparse and (batch == 1 or pixels >= 784)
