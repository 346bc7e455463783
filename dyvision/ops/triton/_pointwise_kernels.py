"""Triton kernels: 1x1 convolution with a mixture of kernels per sample, mixed tile by tile."""

# Arguments of kernels have no Python types.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyvision.ops.triton._common import autotune, config, dot, near
from dyvision.ops.triton._layout import empty_like, plane

#: one coefficient for the whole tile, or one for each of its rows or columns
SHARED, ROWS, COLUMNS = 0, 1, 2


@autotune(
    [
        config(4, 2, BM=16, BR=16, BP=32),
        config(4, 3, BM=32, BR=32, BP=128),
        config(4, 3, BM=64, BR=32, BP=64),
        config(8, 3, BM=64, BR=32, BP=256),
        config(8, 3, BM=128, BR=32, BP=128),
    ],
    key=["K", "M", "R", "near", "WIDE"],
)
@triton.jit
def _apply(
    x, kernels, coefficients, y, K, M, R, P, near, width,
    x_batch, x_channel, x_row, x_column, kernel_k, kernel_m, kernel_r, c_batch, c_k, c_channel,
    y_batch, y_channel, y_place,
    MODE: tl.constexpr, WIDE: tl.constexpr, BM: tl.constexpr, BR: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """``y[b] = (sum_k c[b, k] W_k) x[b]``: M rows, R summed channels, P places."""
    tiles_p, tiles_m = (P + BP - 1) // BP, (M + BM - 1) // BM
    program = tl.program_id(0)
    p = program % tiles_p * BP + tl.arange(0, BP)
    m = program // tiles_p % tiles_m * BM + tl.arange(0, BM)
    b = (program // (tiles_p * tiles_m)).to(tl.int64)
    place = p * x_column if WIDE else p // width * x_row + p % width * x_column
    x_tile = x + b * x_batch + place[None, :]
    c = coefficients + b * c_batch
    total = tl.full((BM, BP), 0.0, tl.float32)
    for start in range(0, R, BR):
        r = start + tl.arange(0, BR)
        inside = (m < M)[:, None] & (r < R)[None, :]
        tile = kernels + m[:, None] * kernel_m + r[None, :] * kernel_r
        mixed = tl.full((BM, BR), 0.0, tl.float32)
        for k in range(K):
            kernel = tl.load(tile + k * kernel_k, mask=inside, other=0.0).to(tl.float32)
            if MODE == 0:
                mixed += kernel * tl.load(c + k * c_k).to(tl.float32)
            elif MODE == 1:
                mixed += kernel * tl.load(c + k * c_k + m * c_channel, mask=m < M, other=0.0).to(tl.float32)[:, None]
            else:
                mixed += kernel * tl.load(c + k * c_k + r * c_channel, mask=r < R, other=0.0).to(tl.float32)[None, :]
        values = tl.load(x_tile + r[:, None] * x_channel, mask=(r < R)[:, None] & (p < P)[None, :], other=0.0)
        total = dot(mixed.to(values.dtype), values, total)
    written = y + b * y_batch + m[:, None] * y_channel + p[None, :] * y_place
    tl.store(written, total.to(y.dtype.element_ty), mask=(m < M)[:, None] & (p < P)[None, :])


@autotune(
    [config(4, 2, BP=32), config(4, 3, BP=64), config(8, 3, BP=64), config(8, 3, BP=128)],
    key=["K", "M", "R", "near"],
)
@triton.jit
def _reduce(
    g, x, kernels, coefficients, d_kernels, d_coefficients, batch, K, M, R, P, near,
    g_width, x_width, splits,
    g_batch, g_channel, g_row, g_column, x_batch, x_channel, x_row, x_column,
    kernel_k, kernel_m, kernel_r, c_batch, c_k, c_channel,
    PER_CHANNEL: tl.constexpr, G_WIDE: tl.constexpr, X_WIDE: tl.constexpr,
    KERNELS: tl.constexpr, BM: tl.constexpr, BR: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Gradients of KERNELS kernels and their coefficients in one tile of M x R, over every ``splits``-th sample."""
    tiles_r = (R + BR - 1) // BR
    tile = tl.program_id(0)
    m = tile // tiles_r * BM + tl.arange(0, BM)
    r = tile % tiles_r * BR + tl.arange(0, BR)
    k = tl.program_id(2) * KERNELS + tl.arange(0, KERNELS)
    inside = (k < K)[:, None, None] & (m < M)[None, :, None] & (r < R)[None, None, :]
    offsets = k[:, None, None] * kernel_k + m[None, :, None] * kernel_m + r[None, None, :] * kernel_r
    total = tl.full((KERNELS, BM, BR), 0.0, tl.float32)
    for sample in range(tl.program_id(1), batch, splits):
        b = tl.cast(sample, tl.int64)
        # the gradient of this sample's mixed kernel, which only lives here
        product = tl.full((BM, BR), 0.0, tl.float32)
        for start in range(0, P, BP):
            p = start + tl.arange(0, BP)
            g_place = p * g_column if G_WIDE else p // g_width * g_row + p % g_width * g_column
            x_place = p * x_column if X_WIDE else p // x_width * x_row + p % x_width * x_column
            left = tl.load(
                g + b * g_batch + m[:, None] * g_channel + g_place[None, :],
                mask=(m < M)[:, None] & (p < P)[None, :],
                other=0.0,
            )
            right = tl.load(
                x + b * x_batch + r[None, :] * x_channel + x_place[:, None],
                mask=(p < P)[:, None] & (r < R)[None, :],
                other=0.0,
            )
            product = dot(left, right, product)
        # read again for every sample: two such blocks at once would not fit into registers
        weighted = tl.load(kernels + offsets, mask=inside, other=0.0).to(tl.float32) * product[None, :, :]
        if PER_CHANNEL:
            c_mask = (k < K)[:, None] & (m < M)[None, :]
            c_offsets = b * c_batch + k[:, None] * c_k + m[None, :] * c_channel
            c = tl.load(coefficients + c_offsets, mask=c_mask, other=0.0).to(tl.float32)
            total += c[:, :, None] * product[None, :, :]
            slot = d_coefficients + ((tile % tiles_r * batch + b) * K + k[:, None]) * M + m[None, :]
            tl.store(slot, tl.sum(weighted, 2), mask=c_mask)
        else:
            c = tl.load(coefficients + b * c_batch + k * c_k, mask=k < K, other=0.0).to(tl.float32)
            total += c[:, None, None] * product[None, :, :]
            slot = d_coefficients + (tile * batch + b) * K + k
            tl.store(slot, tl.sum(tl.sum(weighted, 2), 1), mask=k < K)
    written = d_kernels + ((tl.program_id(1) * K + k[:, None, None]).to(tl.int64) * M + m[None, :, None]) * R
    tl.store(written + r[None, None, :], total, mask=inside)


def apply(input: Tensor, kernels: Tensor, coefficients: Tensor, transposed: bool) -> Tensor:
    """Launch :func:`_apply`; arguments as of :func:`dyvision.ops.triton._pointwise.apply_mixture`."""
    batch, summed, height, width = input.shape
    kernel_k, kernel_m, kernel_r = kernels.stride()[:3]
    rows = kernels.shape[1]
    mode = SHARED if coefficients.ndim == 2 else ROWS
    if transposed:
        rows, kernel_m, kernel_r = kernels.shape[2], kernel_r, kernel_m
        mode = SHARED if coefficients.ndim == 2 else COLUMNS
    output = empty_like(input, rows, height, width)
    places = height * width
    x_row, x_column, x_width = plane(input)
    c_batch, c_k, c_channel = (*coefficients.stride(), 0)[:3]

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (batch * triton.cdiv(rows, meta["BM"]) * triton.cdiv(places, meta["BP"]),)

    with torch.cuda.device_of(input):
        _apply[grid](
            input, kernels, coefficients, output, kernels.shape[0], rows, summed, places, near(places), x_width,
            *input.stride()[:2], x_row, x_column, kernel_k, kernel_m, kernel_r, c_batch, c_k, c_channel,
            *output.stride()[:2], plane(output)[1], MODE=mode, WIDE=x_width == 0,
        )  # fmt: skip
    return output


def reduce(grad: Tensor, input: Tensor, kernels: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Launch :func:`_reduce`; arguments as of :func:`dyvision.ops.triton._pointwise.reduce_mixture`."""
    batch, summed, height, width = input.shape
    count, rows = kernels.shape[:2]
    # the sums of all kernels of a program are in registers: the more or wider numbers, the smaller the tile
    together = min(triton.next_power_of_2(count), 8)
    block_m, block_r = (32 if together == 8 or grad.element_size() == 4 else 64), 32
    tiles_m, tiles_r, chunks = triton.cdiv(rows, block_m), triton.cdiv(summed, block_r), triton.cdiv(count, together)
    # Small layers have few tiles, so samples are shared out too, but never into more partial sums than a kernel per
    # sample would take; about 256 programs fill a large device.
    splits = max(1, min(256 // (tiles_m * tiles_r * chunks), batch // count))
    per_channel = coefficients.ndim == 3
    parts = (tiles_r, batch, count, rows) if per_channel else (tiles_m * tiles_r, batch, count)
    d_kernels = torch.empty((splits, *kernels.shape), dtype=torch.float32, device=input.device)
    d_coefficients = torch.empty(parts, dtype=torch.float32, device=input.device)
    g_row, g_column, g_width = plane(grad)
    x_row, x_column, x_width = plane(input)
    c_batch, c_k, c_channel = (*coefficients.stride(), 0)[:3]
    with torch.cuda.device_of(input):
        _reduce[(tiles_m * tiles_r, splits, chunks)](
            grad, input, kernels, coefficients, d_kernels, d_coefficients,
            batch, count, rows, summed, height * width, near(height * width), g_width, x_width, splits,
            *grad.stride()[:2], g_row, g_column, *input.stride()[:2], x_row, x_column,
            *kernels.stride()[:3], c_batch, c_k, c_channel,
            PER_CHANNEL=per_channel, G_WIDE=g_width == 0, X_WIDE=x_width == 0,
            KERNELS=together, BM=block_m, BR=block_r,
        )  # fmt: skip
    # summed in a fixed order: the same gradients in every run
    return d_kernels.sum(0).to(kernels.dtype), d_coefficients.sum(0).to(coefficients.dtype)
