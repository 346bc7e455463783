"""The Fourier side of FDConv: kernels by frequency groups, feature maps by frequency bands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.layers import _radix
from dyvision.layers._branch import CoefficientBranch
from dyvision.layers._constants import WithConstants
from dyvision.layers.arguments import DoesNotFitError, check_positive, largest_divisor
from dyvision.ops.modes import is_exporting, is_exporting_to_onnx

#: as the kernels' gates: what the map's gates are at a logit of zero is one
ACTIVATIONS = ("sigmoid", "tanh", "softmax")
#: groups of frequencies by default, where they can be divided so
DEFAULT_GROUPS = 4
#: an error lists the possible groups up to this number
LARGEST_NAMED = 128


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


def frequency_groups(wanted: int | None, frequencies: int | None) -> int:
    """How many groups of equal size to make.

    Args:
        wanted: A number; None for the largest possible up to 4.
        frequencies: Their number; None if there is nothing to divide.

    Raises:
        ValueError: If ``wanted`` is not a positive int, or does not divide.
    """
    if wanted is None:
        return next(n for n in range(DEFAULT_GROUPS, 0, -1) if (frequencies or DEFAULT_GROUPS) % n == 0)
    check_positive("num_kernels", wanted)
    if frequencies and frequencies % wanted:
        allowed = ", ".join(str(n) for n in range(1, LARGEST_NAMED + 1) if frequencies % n == 0)
        message = (
            f"num_kernels must divide the number of frequencies, {frequencies} in this layer (up to {LARGEST_NAMED}: "
            f"{allowed}), got {wanted}"
        )
        raise DoesNotFitError(message, "num_kernels", largest_divisor(wanted, frequencies))
    return wanted


def kept_frequencies(frequencies: int, param_reduction: float) -> int:
    """How many frequencies have parameters.

    Raises:
        DoesNotFitError: If none has.
    """
    kept = int(frequencies * min(param_reduction, 1))
    if not kept:
        message = f"param_reduction={param_reduction} leaves none of {frequencies} frequencies"
        raise DoesNotFitError(message, "param_reduction")
    return kept


def spectrum_of(weight: Tensor) -> Tensor:
    """Transform ``[O, I, k, k]``, laid out as ``[O k, I k]``, to ``[O k, I k // 2 + 1, 2]``, real and imaginary parts.

    The result is divided by ``max(min(O, I) // 2, 1)``.
    """
    out_channels, in_channels, height, width = weight.shape
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    plane = weight.permute(0, 2, 1, 3).reshape(out_channels * height, in_channels * width)
    return torch.view_as_real(transform(plane)) / spectrum_scale(out_channels, in_channels)


def spectrum_scale(out_channels: int, in_channels: int) -> int:
    """By how much the official parameter is smaller than the spectrum."""
    return max(min(out_channels, in_channels) // 2, 1)


def transform(x: Tensor) -> Tensor:
    """``torch.fft.rfft2`` of ``[.., H, W]``, in operations that other runtimes have when it is exported."""
    if not is_exporting():
        return torch.fft.rfft2(x)
    # the exporter to ONNX writes wrong shapes behind one-sided transforms
    parts = torch.view_as_real(torch.fft.fft2(x))
    return torch.view_as_complex(parts[..., : x.shape[-1] // 2 + 1, :].contiguous())


def inverse(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    """``torch.fft.irfft2`` of ``[.., H, W // 2 + 1]``, in operations that other runtimes have when it is exported.

    Args:
        spectrum: Complex.
        size: ``(H, W)``.

    Returns:
        ``[.., H, W]``, real.
    """
    if not is_exporting():
        return torch.fft.irfft2(spectrum, s=size)
    # ONNX Runtime fails at one-sided inverse transforms. The real part of a full one: the columns that are left out are
    # conjugates of others, which therefore count twice
    width = size[1]
    parts = torch.view_as_real(spectrum)
    columns = torch.arange(width // 2 + 1, device=spectrum.device)
    parts = parts * _times_counted(columns, width).to(parts.dtype)[:, None]
    full = F.pad(parts, (0, 0, 0, width - width // 2 - 1))
    return _fft2(torch.view_as_complex(full), inverse=True).real


def low_passes(x: Tensor, masks: Tensor) -> Iterator[Tensor]:
    """What is left of ``x [B, C, H, W]`` under each mask of frequencies, of ``masks [n, H, W // 2 + 1]``."""
    if not is_exporting():
        spectrum = torch.fft.rfft2(x, norm="ortho")
        for mask in masks:
            yield torch.fft.irfft2(spectrum * mask, s=x.shape[2:], norm="ortho")
        return
    # all columns: runtimes fail at half of them, and an exporter cannot prove that a free width has so many. The masks
    # of the other half are not these mirrored (resized masks are not symmetric), so the first half counts for both
    width = x.shape[3]
    columns = torch.arange(width, device=x.device)
    spectrum = _fft2(torch.complex(x, torch.zeros_like(x))) * _times_counted(columns, width).to(x.dtype)
    masks = masks.index_select(2, torch.minimum(columns, width - columns))
    # of all masks at once: a file has as many nodes less
    yield from _fft2(spectrum * masks[:, None, None], inverse=True).real.unbind(0)


def _fft2(x: Tensor, inverse: bool = False) -> Tensor:
    """Of complex numbers, as precise in ONNX Runtime as in PyTorch where the size is known."""
    if is_exporting_to_onnx() and all(isinstance(side, int) for side in x.shape[-2:]):
        return _radix.fft2(x, inverse)
    return torch.fft.ifft2(x) if inverse else torch.fft.fft2(x)


def _times_counted(columns: Tensor, width: int) -> Tensor:
    """How often a column of a spectrum counts in the real part of the inverse: 0 is for the conjugates of others."""
    single = (columns == 0) | (2 * columns == width)
    return torch.where(single, 1.0, torch.where(2 * columns < width, 2.0, 0.0))


def kernels_of(plane: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Transform complex spectra ``[B, O k, I k // 2 + 1]`` to kernels ``[B, O, I, k, k]``; ``shape (O, I, k, k)``."""
    out_channels, in_channels, height, width = shape
    weight = inverse(plane, (out_channels * height, in_channels * width))
    return weight.view(-1, out_channels, height, in_channels, width).transpose(2, 3)


class BandGates(WithConstants, CoefficientBranch):
    """Gates of the high bands of frequencies at every position: ``2 sigmoid(conv(x))`` per band and group of channels.

    Band i has the frequencies from ``0.5 / divisors[i]`` (times the sampling rate, the larger of both directions) to
    where the one before ends; what is below all of them is the low band.

    Args:
        in_channels: Channels C of the input.
        divisors: One number per high band, growing.
        low: Whether the low band has gates too.
        activation: ``"sigmoid"``, ``"tanh"`` (``1 + tanh``), or ``"softmax"`` over the groups, times their number.
        groups: Groups g of channels with gates of their own; more than 64 stand for one per channel.
        kernel_size: Of the convolution, odd.
        mask_size: The masks of the bands are built for this size and resized to that of the map.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: If an argument has another value.
    """

    constants = ("masks",)
    masks: Tensor

    def __init__(
        self,
        in_channels: int,
        divisors: Sequence[float] = (2, 4, 8),
        low: bool = False,
        activation: str = "sigmoid",
        groups: int = 1,
        kernel_size: int = 3,
        mask_size: tuple[int, int] = (64, 64),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_positive("bands: groups", groups)
        groups = in_channels if groups > 64 else groups
        if activation not in ACTIVATIONS:
            raise ValueError(f"bands: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if in_channels % groups:
            message = f"bands: groups must divide in_channels={in_channels}, got {groups}"
            raise DoesNotFitError(message, "groups", largest_divisor(groups, in_channels))
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"bands: kernel_size must be odd and positive, got {kernel_size}")
        if not divisors or min(divisors) <= 0:
            raise ValueError(f"bands: divisors must be positive numbers, at least one, got {divisors!r}")
        self.activation, self.groups, self.low = activation, groups, low
        self.padding = kernel_size // 2  # a number: sizes of tensors are none while PyTorch 2.6 traces
        count = len(divisors) + low
        # band by band, the groups of each side by side
        self.weight = nn.Parameter(torch.empty(count * groups, in_channels // groups, kernel_size, kernel_size, **dd))
        self.bias = nn.Parameter(torch.empty(count * groups, **dd))
        self.divisors = tuple(divisors)
        self.mask_size = (mask_size[0], mask_size[1])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 1e-6), bias 0: the gates start at one. The masks are constants."""
        # in float32 and with the 1e-8 of the official code: there 0.5/4 and 0.5/8 still belong to the lower band
        rows = torch.fft.fftfreq(self.mask_size[0], dtype=torch.float32, device="cpu").abs()
        columns = torch.fft.rfftfreq(self.mask_size[1], dtype=torch.float32, device="cpu")
        radius = torch.maximum(rows[:, None], columns)
        masks = torch.stack([radius < 0.5 / divisor + 1e-8 for divisor in self.divisors])
        self.set_constant("masks", masks, self.weight.device)
        nn.init.normal_(self.weight, std=1e-6)
        nn.init.zeros_(self.bias)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``x [B, C, H, W]``, which nothing has pooled, to ``[B, bands, g, H, W]``."""
        weight, bias = self.weight.to(pooled.dtype), self.bias.to(pooled.dtype)
        groups = self.groups
        if groups > 1:  # a grouped convolution wants the outputs of a group side by side
            weight = weight.unflatten(0, (-1, groups)).transpose(0, 1).flatten(0, 1)
            bias = bias.unflatten(0, (-1, groups)).t().flatten()
        logits = F.conv2d(pooled, weight, bias, padding=self.padding, groups=groups)
        return gates_of(logits.unflatten(1, (groups, -1)).transpose(1, 2), self.activation, dim=2)

    def _pool(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def modulate(self, x: Tensor) -> Tensor:
        """Split ``x [B, C, H, W]`` into bands, scale them by their gates, and sum."""
        gates = self(x)
        rest = x.to(gates.dtype)
        masks = F.interpolate(self.masks[None].to(gates), (x.shape[2], x.shape[3] // 2 + 1))[0]
        output = torch.zeros_like(rest)
        bands = gates.unbind(1)
        for low, gate in zip(low_passes(rest, masks), bands, strict=False):
            output = output + self._scale(rest - low, gate)
            rest = low
        return (output + (self._scale(rest, bands[-1]) if self.low else rest)).to(x.dtype)

    def _scale(self, band: Tensor, gate: Tensor) -> Tensor:
        """Scale ``[B, C, H, W]`` by ``[B, g, H, W]``."""
        if self.groups == 1:
            return band * gate
        return (band.unflatten(1, (self.groups, -1)) * gate[:, :, None]).flatten(1, 2)


def make_bands(in_channels: int, bands: Mapping[str, Any], dd: Mapping[str, Any]) -> BandGates:
    """Build the gates of a layer whose argument ``bands`` these are.

    Args:
        in_channels: Channels of the input.
        bands: Arguments of :class:`BandGates`.
        dd: Device and type.

    Raises:
        DoesNotFitError: If the groups do not divide the channels; it is the layer's argument that does not fit.
    """
    try:
        return BandGates(in_channels, **bands, **dd)
    except DoesNotFitError as error:
        raise DoesNotFitError(str(error), "bands", {**bands, error.argument: error.fits}) from error


def gates_of(logits: Tensor, activation: str, scale: float = 2.0, dim: int = 1) -> Tensor:
    """Gates: ``scale * sigmoid(z)``, ``1 + tanh(z)``, or the softmax along ``dim`` times its length."""
    if activation == "softmax":
        return logits.softmax(dim) * logits.shape[dim]
    return 1 + torch.tanh(logits) if activation == "tanh" else scale * torch.sigmoid(logits)


def conv1d_size(channels: int) -> int:
    """Size of the filter over channels: odd, growing with the logarithm of their number."""
    return round(math.log2(channels) / 2 + 0.5) // 2 * 2 + 1
