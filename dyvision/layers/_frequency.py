"""The Fourier side of FDConv: kernels by frequency groups, feature maps by frequency bands."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.layers._branch import CoefficientBranch

#: the masks of the bands are built for this size and resized to that of the map
MASK_SIZE = 64
#: where each band ends, in 64ths of the sampling rate: below 0.5/2, up to 0.5/4 and up to 0.5/8 (the official code
#: compares with 0.5/q + 1e-8, which in float32 is larger than 0.5/q for q = 4 and 8, but not for q = 2)
BANDS = (16, 9, 5)


def frequency_order(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Sort the frequencies of ``rfft2`` over ``[height, width]`` by radius, stably and in exact arithmetic.

    Returns:
        Flat indices into ``[height, width // 2 + 1]``.
    """
    rows = torch.arange(height, device=device)
    rows = torch.minimum(rows, height - rows)
    columns = torch.arange(width // 2 + 1, device=device)
    # the squared radius (r / height)^2 + (c / width)^2 as an integer: no rounding, the same ties everywhere
    radius = (rows * width).square()[:, None] + (columns * height).square()
    return torch.argsort(radius.flatten(), dim=0, stable=True)


def spectrum_of(weight: Tensor) -> Tensor:
    """Transform ``[O, I, k, k]``, laid out as ``[O k, I k]``, to ``[O k, I k // 2 + 1, 2]``, real and imaginary parts.

    The result is divided by ``max(min(O, I) // 2, 1)``.
    """
    out_channels, in_channels, height, width = weight.shape
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    plane = weight.permute(0, 2, 1, 3).reshape(out_channels * height, in_channels * width)
    return torch.view_as_real(torch.fft.rfft2(plane)) / spectrum_scale(out_channels, in_channels)


def spectrum_scale(out_channels: int, in_channels: int) -> int:
    """By how much the official parameter is smaller than the spectrum."""
    return max(min(out_channels, in_channels) // 2, 1)


def kernels_of(spectrum: Tensor, factors: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Weight the frequencies and transform back.

    Args:
        spectrum: ``[O k, I k // 2 + 1, 2]`` as of :func:`spectrum_of`.
        factors: ``[B, O k, I k // 2 + 1]``; ones give the original kernel.
        shape: ``(O, I, k, k)``.

    Returns:
        ``[B, O, I, k, k]``, in float32 at least.
    """
    out_channels, in_channels, height, width = shape
    # FFTs know no half precision
    dtype = torch.promote_types(torch.promote_types(spectrum.dtype, factors.dtype), torch.float32)
    scaled = torch.view_as_complex(spectrum.to(dtype).contiguous()) * factors.to(dtype)
    size = (out_channels * height, in_channels * width)
    plane = torch.fft.irfft2(scaled, s=size) * spectrum_scale(out_channels, in_channels)
    return plane.view(-1, out_channels, height, in_channels, width).transpose(2, 3)


class BandGates(CoefficientBranch):
    """Gates of the high bands at every position: ``2 sigmoid(conv3x3(x))``, one channel per band.

    Args:
        in_channels: Channels of the input.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    masks: Tensor

    def __init__(
        self, in_channels: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(len(BANDS), in_channels, 3, 3, **dd))
        self.bias = nn.Parameter(torch.empty(len(BANDS), **dd))
        masks = torch.empty(len(BANDS), MASK_SIZE, MASK_SIZE // 2 + 1, dtype=torch.bool, device=device)
        self.register_buffer("masks", masks, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 1e-6), bias 0: the gates start at one. The masks are constants."""
        rows = torch.arange(MASK_SIZE, device=self.masks.device)
        radius = torch.maximum(torch.minimum(rows, MASK_SIZE - rows)[:, None], rows[: MASK_SIZE // 2 + 1])
        self.masks.copy_(torch.stack([radius < end for end in BANDS]))
        nn.init.normal_(self.weight, std=1e-6)
        nn.init.zeros_(self.bias)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``x [B, C, H, W]``, which nothing has pooled, to ``[B, 3, H, W]``."""
        logits = F.conv2d(pooled, self.weight.to(pooled.dtype), self.bias.to(pooled.dtype), padding=1)
        return 2 * torch.sigmoid(logits)

    def _pool(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def modulate(self, x: Tensor) -> Tensor:
        """Split ``x [B, C, H, W]`` into bands, scale all but the lowest by their gates, and sum."""
        gates = self(x)
        size = (x.shape[-2], x.shape[-1])
        rest = x.to(gates.dtype)
        spectrum = torch.fft.rfft2(rest, norm="ortho")
        masks = F.interpolate(self.masks[None].to(gates.dtype), (size[0], size[1] // 2 + 1))[0]
        output = torch.zeros_like(rest)
        for mask, gate in zip(masks, gates.unbind(1), strict=True):
            low = torch.fft.irfft2(spectrum * mask, s=size, norm="ortho")
            output = output + (rest - low) * gate[:, None]
            rest = low
        return (output + rest).to(x.dtype)


def conv1d_size(channels: int) -> int:
    """Size of the filter over channels: odd, growing with the logarithm of their number."""
    return round(math.log2(channels) / 2 + 0.5) // 2 * 2 + 1
