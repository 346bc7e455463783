"""What the kernels share: tuning, the matrix product, where a tap of a convolution reads."""

# Arguments of kernels have no Python types.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
import triton.testing


@triton.jit
def source(
    position,
    tap,
    size,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """Where along one axis a tap reads for a written position, and whether that is inside.

    A convolution reads ``position * stride - padding + tap * dilation``; its transpose reads the position from which
    the convolution would come here, if there is one.
    """
    if TRANSPOSED:
        shifted = position + PADDING - tap * DILATION
        index = shifted // STRIDE
        inside = (shifted >= 0) & (shifted % STRIDE == 0) & (index < size)
    else:
        index = position * STRIDE - PADDING + tap * DILATION
        inside = (index >= 0) & (index < size)
    return index, inside


#: whether Triton's interpreter runs the kernels (decided by the environment when they are defined)
INTERPRETED = tl.constexpr(not isinstance(source, triton.JITFunction))


@triton.jit
def dot(a, b, total):
    """``total + a @ b`` in float32; products of float32 are not rounded to TF32."""
    if INTERPRETED:  # the interpreter keeps bfloat16 as integers and would multiply those
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


def config(warps: int, stages: int, **blocks: int) -> triton.Config:
    """Describe one choice of block sizes."""
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


def near(places: int) -> int:
    """Round a number of places up to a power of two: maps of about one size share what was found for one of them."""
    return triton.next_power_of_2(places)


def autotune(configs: list[triton.Config], key: list[str]) -> Callable[[Any], Any]:
    """Time the configurations for each new key; the interpreter takes the first, which has the smallest blocks."""
    return triton.autotune(configs[:1] if INTERPRETED.value else configs, key=key, do_bench=_measure)


def _measure(call: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
    # Milliseconds. Short, because a network has many shapes.
    return triton.testing.do_bench(call, warmup=5, rep=25, quantiles=quantiles)
