"""Triton kernels: convolution with one kernel per sample as a matrix product over taps and channels."""

# Arguments of kernels have no Python types.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.triton._common import autotune, config, dot, near, source
from dyvision.ops.triton._layout import constants, empty_like


@autotune(
    [
        config(4, 2, BM=16, BR=32, BP=32),
        config(4, 3, BM=32, BR=32, BP=64),
        config(4, 3, BM=64, BR=32, BP=64),
        config(4, 3, BM=64, BR=32, BP=128),
        config(8, 3, BM=128, BR=32, BP=128),
    ],
    key=["M", "R", "near", "KH", "KW", "TAPS_INSIDE", "TRANSPOSED"],
)
@triton.jit
def _apply(
    x, w, y, M, R, H, W, OH, OW, near, groups,
    x_batch, x_channel, x_row, x_column, w_batch, w_group, w_m, w_r, w_row, w_column,
    y_batch, y_channel, y_row, y_column, TAPS_INSIDE: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, TRANSPOSED: tl.constexpr,
    BM: tl.constexpr, BR: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Per sample and group: M written channels, R read channels times taps summed over, OH x OW places."""
    tiles_p, tiles_m = (OH * OW + BP - 1) // BP, (M + BM - 1) // BM
    program = tl.program_id(0)
    p = program % tiles_p * BP + tl.arange(0, BP)
    m = program // tiles_p % tiles_m * BM + tl.arange(0, BM)
    group = program // (tiles_p * tiles_m) % groups
    b = (program // (tiles_p * tiles_m * groups)).to(tl.int64)
    row, column = p // OW, p % OW
    x_tile = x + b * x_batch + group * R * x_channel
    w_tile = w + b * w_batch + group * w_group + m[:, None] * w_m
    total = tl.full((BM, BP), 0.0, tl.float32)
    for start in range(0, R * KH * KW, BR):
        n = start + tl.arange(0, BR)
        # neighbours in memory should be neighbours in the tile
        if TAPS_INSIDE:
            r, tap = n // (KH * KW), n % (KH * KW)
        else:
            r, tap = n % R, n // R
        i, j = tap // KW, tap % KW
        real = n < R * KH * KW
        kernel = tl.load(
            w_tile + (r * w_r + i * w_row + j * w_column)[None, :], mask=(m < M)[:, None] & real[None, :], other=0.0
        )
        h, h_inside = source(row[None, :], i[:, None], H, SH, PH, DH, TRANSPOSED)
        v, v_inside = source(column[None, :], j[:, None], W, SW, PW, DW, TRANSPOSED)
        inside = h_inside & v_inside & real[:, None] & (row < OH)[None, :]
        values = tl.load(x_tile + r[:, None] * x_channel + h * x_row + v * x_column, mask=inside, other=0.0)
        total = dot(kernel.to(values.dtype), values, total)
    written = y + b * y_batch + (group * M + m)[:, None] * y_channel + (row * y_row + column * y_column)[None, :]
    tl.store(written, total.to(y.dtype.element_ty), mask=(m < M)[:, None] & (row < OH)[None, :])


@autotune(
    [
        config(4, 2, BM=16, BN=32, BP=32),
        config(4, 3, BM=32, BN=64, BP=32),
        config(4, 3, BM=64, BN=64, BP=32),
        config(4, 3, BM=64, BN=64, BP=64),
        config(8, 3, BM=128, BN=128, BP=32),
    ],
    key=["M", "R", "near", "KH", "KW", "TAPS_INSIDE"],
)
@triton.jit
def _reduce(
    g, x, dw, M, R, H, W, OH, OW, near, groups,
    g_batch, g_channel, g_row, g_column, x_batch, x_channel, x_row, x_column, TAPS_INSIDE: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Per sample and group: gradients of M x (R channels times taps), summed over the OH x OW places of the output."""
    tiles_n, tiles_m = (R * KH * KW + BN - 1) // BN, (M + BM - 1) // BM
    program = tl.program_id(0)
    n = program % tiles_n * BN + tl.arange(0, BN)
    m = program // tiles_n % tiles_m * BM + tl.arange(0, BM)
    group = program // (tiles_n * tiles_m) % groups
    b = (program // (tiles_n * tiles_m * groups)).to(tl.int64)
    if TAPS_INSIDE:
        r, tap = n // (KH * KW), n % (KH * KW)
    else:
        r, tap = n % R, n // R
    i, j = tap // KW, tap % KW
    real = n < R * KH * KW
    g_tile = g + b * g_batch + (group * M + m)[:, None] * g_channel
    x_tile = x + b * x_batch + (group * R + r)[None, :] * x_channel
    total = tl.full((BM, BN), 0.0, tl.float32)
    for start in range(0, OH * OW, BP):
        p = start + tl.arange(0, BP)
        row, column = p // OW, p % OW
        grads = tl.load(
            g_tile + (row * g_row + column * g_column)[None, :],
            mask=(m < M)[:, None] & (row < OH)[None, :],
            other=0.0,
        )
        h, h_inside = source(row[:, None], i[None, :], H, SH, PH, DH, False)
        v, v_inside = source(column[:, None], j[None, :], W, SW, PW, DW, False)
        inside = h_inside & v_inside & (row < OH)[:, None] & real[None, :]
        values = tl.load(x_tile + h * x_row + v * x_column, mask=inside, other=0.0)
        total = dot(grads, values, total)
    written = dw + ((b * groups + group) * M + m[:, None]) * (R * KH * KW) + (r * (KH * KW) + tap)[None, :]
    tl.store(written, total.to(dw.dtype.element_ty), mask=(m < M)[:, None] & real[None, :])


def apply(input: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, int], transposed: bool) -> Tensor:
    """Convolve, or compute the gradient of the input from that of the output.

    Args:
        input: ``[B, C_in, H, W]``; if transposed, the gradient of the output.
        weight: ``[B, C_out, C_in/groups, kH, kW]``.
        geometry: Of the convolution, also if transposed.
        size: Height and width of the result.
        transposed: Compute the gradient.

    Returns:
        ``[B, C_out, *size]``, or ``[B, C_in, *size]`` if transposed.
    """
    batch, _, height, width = input.shape
    rows, summed = weight.shape[1] // geometry.groups, weight.shape[2]
    w_batch, w_m, w_r, w_row, w_column = weight.stride()
    w_group = rows * w_m
    if transposed:
        rows, summed, w_m, w_r = summed, rows, w_r, w_m
    output = empty_like(input, rows * geometry.groups, *size)

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(rows, meta["BM"]) * triton.cdiv(size[0] * size[1], meta["BP"])
        return (batch * geometry.groups * tiles,)

    with torch.cuda.device_of(input):
        _apply[grid](
            input, weight, output, rows, summed, height, width, *size, near(size[0] * size[1]), geometry.groups,
            *input.stride(), w_batch, w_group, w_m, w_r, w_row, w_column, *output.stride(),
            TAPS_INSIDE=input.stride(1) != 1,
            **constants(weight, geometry), TRANSPOSED=transposed,
        )  # fmt: skip
    return output


def reduce(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Compute the gradient of the weight.

    Args:
        grad: Gradient of the output, ``[B, C_out, H', W']``.
        input: ``[B, C_in, H, W]``.
        weight: ``[B, C_out, C_in/groups, kH, kW]``, for its shape and type.
        geometry: Of the convolution.

    Returns:
        The gradient, contiguous.
    """
    batch, _, height, width = input.shape
    rows, summed = weight.shape[1] // geometry.groups, weight.shape[2]
    columns = summed * weight.shape[3] * weight.shape[4]
    result = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (batch * geometry.groups * triton.cdiv(rows, meta["BM"]) * triton.cdiv(columns, meta["BN"]),)

    with torch.cuda.device_of(input):
        _reduce[grid](
            grad, input, result, rows, summed, height, width, *grad.shape[2:],
            near(grad.shape[2] * grad.shape[3]), geometry.groups,
            *grad.stride(), *input.stride(), TAPS_INSIDE=input.stride(1) != 1,
            **constants(weight, geometry),
        )  # fmt: skip
    return result
