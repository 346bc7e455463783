"""Triton kernels: depthwise convolution with one kernel per sample."""

# Arguments of kernels have no Python types.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.triton._common import autotune, config, near, source
from dyvision.ops.triton._layout import constants, empty_like


@autotune(
    [
        config(4, 2, BC=16, BP=32),
        config(4, 2, BC=1, BP=512),  # NCHW: places are neighbours
        config(4, 2, BC=4, BP=128),
        config(4, 2, BC=32, BP=16),  # channels_last: channels are
        config(4, 2, BC=64, BP=16),
    ],
    key=["C", "near", "KH", "KW", "CHANNELS_LAST", "TRANSPOSED"],
)
@triton.jit
def _apply(
    x, w, y, C, H, W, OH, OW, near,
    x_batch, x_channel, x_row, x_column, w_batch, w_channel, w_row, w_column, y_batch, y_channel, y_row, y_column,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, TRANSPOSED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Read maps of H x W, write maps of OH x OW; CHANNELS_LAST is only there to be tuned for."""
    tiles_p, tiles_c = (OH * OW + BP - 1) // BP, (C + BC - 1) // BC
    program = tl.program_id(0)
    p = program % tiles_p * BP + tl.arange(0, BP)
    c = program // tiles_p % tiles_c * BC + tl.arange(0, BC)
    b = (program // (tiles_p * tiles_c)).to(tl.int64)
    row, column = p // OW, p % OW
    kept = (c < C)[:, None] & (row < OH)[None, :]
    x_tile = x + b * x_batch + c[:, None] * x_channel
    w_tile = w + b * w_batch + c * w_channel
    total = tl.full((BC, BP), 0.0, tl.float32)
    for i in range(KH):
        h, h_inside = source(row, i, H, SH, PH, DH, TRANSPOSED)
        for j in tl.static_range(KW):
            v, v_inside = source(column, j, W, SW, PW, DW, TRANSPOSED)
            tap = tl.load(w_tile + i * w_row + j * w_column, mask=c < C, other=0.0).to(tl.float32)
            inside = kept & (h_inside & v_inside)[None, :]
            values = tl.load(x_tile + (h * x_row + v * x_column)[None, :], mask=inside, other=0.0)
            total += tap[:, None] * values.to(tl.float32)
    written = y + b * y_batch + c[:, None] * y_channel + (row * y_row + column * y_column)[None, :]
    tl.store(written, total.to(y.dtype.element_ty), mask=kept)


@autotune(
    [
        config(4, 2, BC=16, BP=32),
        config(4, 2, BC=1, BP=512),
        config(4, 2, BC=4, BP=128),
        config(4, 2, BC=32, BP=16),
        config(4, 2, BC=64, BP=16),
    ],
    key=["C", "near", "KH", "KW", "CHANNELS_LAST"],
)
@triton.jit
def _reduce(
    g, x, dw, C, H, W, OH, OW, near, g_batch, g_channel, g_row, g_column, x_batch, x_channel, x_row, x_column,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, CHANNELS_LAST: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """One program per sample, tap and block of channels: programs of one block share their reads through the cache."""
    tiles_c = (C + BC - 1) // BC
    program = tl.program_id(0)
    tap = program % (KH * KW)
    c = program // (KH * KW) % tiles_c * BC + tl.arange(0, BC)
    b = (program // (KH * KW * tiles_c)).to(tl.int64)
    total = tl.full((BC, BP), 0.0, tl.float32)
    for start in range(0, OH * OW, BP):
        p = start + tl.arange(0, BP)
        row, column = p // OW, p % OW
        h, h_inside = source(row, tap // KW, H, SH, PH, DH, False)
        v, v_inside = source(column, tap % KW, W, SW, PW, DW, False)
        inside = (c < C)[:, None] & ((row < OH) & h_inside & v_inside)[None, :]
        grads = tl.load(
            g + b * g_batch + c[:, None] * g_channel + (row * g_row + column * g_column)[None, :],
            mask=inside,
            other=0.0,
        )
        values = tl.load(
            x + b * x_batch + c[:, None] * x_channel + (h * x_row + v * x_column)[None, :], mask=inside, other=0.0
        )
        total += grads.to(tl.float32) * values.to(tl.float32)
    written = dw + (b * C + c) * (KH * KW) + tap
    tl.store(written, tl.sum(total, 1).to(dw.dtype.element_ty), mask=c < C)


def apply(input: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, int], transposed: bool) -> Tensor:
    """Launch :func:`_apply`.

    Args:
        input: ``[B, C, H, W]``.
        weight: ``[B, C, kH, kW]``.
        geometry: Of the convolution, also if transposed.
        size: Height and width of the result.
        transposed: Compute the gradient of the input from that of the output.

    Returns:
        ``[B, C, *size]``.
    """
    batch, channels, height, width = input.shape
    output = empty_like(input, channels, *size)

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (batch * triton.cdiv(channels, meta["BC"]) * triton.cdiv(size[0] * size[1], meta["BP"]),)

    with torch.cuda.device_of(input):
        _apply[grid](
            input, weight, output, channels, height, width, *size, near(size[0] * size[1]),
            *input.stride(), *weight.stride(), *output.stride(),
            **constants(weight, geometry), TRANSPOSED=transposed, CHANNELS_LAST=input.stride(1) == 1,
        )  # fmt: skip
    return output


def reduce(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Launch :func:`_reduce`.

    Args:
        grad: Gradient of the output, ``[B, C, H', W']``.
        input: ``[B, C, H, W]``.
        weight: ``[B, C, kH, kW]``, for its shape and type.
        geometry: Of the convolution.

    Returns:
        The gradient of the weight.
    """
    batch, channels, height, width = input.shape
    result = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    taps = weight.shape[2] * weight.shape[3]
    with torch.cuda.device_of(input):
        _reduce[lambda meta: (batch * taps * triton.cdiv(channels, meta["BC"]),)](
            grad, input, result, channels, height, width, *grad.shape[2:],
            near(grad.shape[2] * grad.shape[3]), *grad.stride(), *input.stride(),
            **constants(weight, geometry), CHANNELS_LAST=input.stride(1) == 1,
        )  # fmt: skip
    return result
