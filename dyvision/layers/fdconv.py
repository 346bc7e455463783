"""FDConv: kernels mixed in the Fourier domain, modulated weight by weight, on a map modulated by frequency bands.

Chen et al., "Frequency Dynamic Convolution for Dense Image Prediction", CVPR 2025, arXiv 2503.18783, section
3. Official: ``Linwei-Chen/FDConv``, ``FDConv_detection/mmdet_custom/FDConv.py``. The gates are ``2 sigmoid(z / T)``
unless told otherwise: one at z = 0. As in the code the layer is an ordinary convolution where there is little to gain:
see :class:`FDConv2d`; and the gates of single weights have no temperature.

Differences: the frequencies are sorted stably and their order is saved (the official order of ties depends on the
platform); kernels of odd width work; groups are supported, each output channel using the gates of its own inputs. The
official initialisation leaves the filter gates at kaiming-normal, apparently by mistake; so does this file, unless
``load_static`` sets them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import DynamicConv2d
from dyvision.layers._constants import WithConstants
from dyvision.layers._fdconv_branch import FDConvCoefficients, KernelModulation
from dyvision.layers._initialise import start_like_conv2d
from dyvision.layers._plain import plain_conv2d
from dyvision.layers._registry import register_layer
from dyvision.layers._weight import StaticKernel
from dyvision.layers.arguments import Conv2dArguments, check_between, check_positive, check_temperature, factory_kwargs
from dyvision.layers.frequency import (
    ACTIVATIONS,
    frequency_groups,
    frequency_order,
    gates_of,
    kept_frequencies,
    kernels_of,
    make_bands,
    spectrum_of,
    spectrum_scale,
)
from dyvision.ops import dynamic_conv2d
from dyvision.ops.geometry import Size


@register_layer("fdconv")
class FDConv2d(WithConstants, DynamicConv2d):
    """Convolution with ``W_b = local * spatial * channel * filter * irfft2(sum_j a[b, j] S_j)``, S_j disjoint spectra.

    For 3x3 kernels three frequency bands of the input are scaled before, each by a map of its own. The layer is an
    ordinary convolution, with a parameter ``weight``, if ``min(C_in / groups, C_out) <= min_channels`` or the kernel
    is not square or not of one of the ``kernel_sizes``; ``is_dynamic`` is false and ``coefficients`` gives None then.

    Args:
        num_kernels: Groups n of frequencies, must divide their number; 64 in the paper. By default 4, or 3, 2 or 1
            where a larger number does not divide.
        reduction: Width of the gates' hidden layer over ``in_channels``, at least 16.
        temperature: T, divides the logits of channel, filter and spatial gates; saved with the parameters.
        kernel_temperature: Divides the logits of the gates of frequency groups; None is ``temperature``.
        min_channels: Layers with no more channels stay static.
        kernel_sizes: Sides of the kernels that become dynamic.
        band_kernel_sizes: Sides of the kernels before which bands of the input are scaled.
        bands_if_strided: Scale bands before every kernel that has a stride as well.
        bands: Arguments of :class:`dyvision.layers.frequency.BandGates`, ``divisors``, ``low``, ``activation``,
            ``groups``, ``kernel_size`` and ``mask_size``.
        gate_scale: Factor of the sigmoid of channel, filter, spatial and local gates.
        activation: ``"sigmoid"`` or ``"tanh"`` (``1 + tanh``), of all gates but the local ones; ``"softmax"`` over the
            frequency groups, with ``kernel_gates_only`` alone.
        local_activation: ``"sigmoid"`` or ``"tanh"``, of the gates of single weights.
        kernel_gates_only: Leave out channel, filter and spatial gates.
        local_gates: Whether there are gates of single weights.
        param_ratio: Spectra r, each with its own gates; their sum is the kernel.
        param_reduction: Below one, the part of the frequencies that has parameters, the lowest ones (the kernel is not
            rescaled then, as in the official code); above one, the kernel is divided by it.
        spectral: Whether the parameters are the spectrum, or the kernel, which is then transformed at every call.

    Shape:
        As ``nn.Conv2d``; ``coefficients`` are :class:`FDConvCoefficients`.

    Example:
        >>> FDConv2d(24, 32, 3, padding=1)(torch.randn(2, 24, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    constants = saved_constants = ("order",)
    temperature: Tensor
    order: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        num_kernels: int | None = None,
        reduction: float = 1 / 16,
        temperature: float = 1.0,
        kernel_temperature: float | None = None,
        min_channels: int = 16,
        kernel_sizes: Sequence[int] = (1, 3),
        band_kernel_sizes: Sequence[int] = (3,),
        bands_if_strided: bool = False,
        bands: Mapping[str, Any] | None = None,
        gate_scale: float = 2.0,
        activation: str = "sigmoid",
        local_activation: str = "sigmoid",
        kernel_gates_only: bool = False,
        local_gates: bool = True,
        param_ratio: int = 1,
        param_reduction: float = 1.0,
        spectral: bool = True,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        check_positive("param_ratio", param_ratio)
        check_between("reduction", reduction, 1)
        check_temperature(temperature)
        numbers = {"gate_scale": gate_scale, "param_reduction": param_reduction}
        numbers["kernel_temperature"] = temperature if kernel_temperature is None else kernel_temperature
        for name, value in numbers.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value!r}")
        known = ACTIVATIONS if kernel_gates_only else ACTIVATIONS[:2]
        if activation not in known:
            only = "" if kernel_gates_only else " (softmax needs kernel_gates_only=True)"
            raise ValueError(f"activation must be one of {', '.join(known)}, got {activation!r}{only}")
        if local_activation not in ACTIVATIONS[:2]:
            raise ValueError(f"local_activation must be sigmoid or tanh, got {local_activation!r}")
        if not spectral and param_reduction < 1:
            raise ValueError("spectral=False has parameters for all frequencies: param_reduction must be at least 1")
        dd = factory_kwargs(args, kwargs)
        self.initial_temperature = float(temperature)
        self.param_ratio, self.param_reduction = param_ratio, param_reduction
        self.gate_scale, self.activation, self.local_activation = gate_scale, activation, local_activation
        #: how many times hotter the gates of frequency groups are
        self.kernel_heat = numbers["kernel_temperature"] / temperature
        out_channels, inputs, height, width = self.kernel_shape
        side = height if height == width else 0
        self.is_dynamic = min(inputs, out_channels) > min_channels and side in kernel_sizes
        self.spectral = spectral and self.is_dynamic
        self.bias = nn.Parameter(torch.empty(out_channels, **dd)) if self.has_bias else None
        # float32 whatever the parameters' type; fixed, but a buffer like the temperatures that are annealed
        self.register_buffer("temperature", torch.empty((), device=dd["device"]))
        if not self.spectral:
            self.weight = nn.Parameter(torch.empty(self.kernel_shape, **dd))
        if self.is_dynamic:
            self.plane = (out_channels * height, inputs * width // 2 + 1)
            self.kept = kept_frequencies(math.prod(self.plane), param_reduction)
        self.num_kernels = frequency_groups(num_kernels, self.kept if self.is_dynamic else None)
        if self.is_dynamic:
            if self.spectral:
                places = (self.kept,) if param_reduction < 1 else self.plane
                spectra = (param_ratio,) if param_ratio > 1 else ()
                self.dft_weight = nn.Parameter(torch.empty(*spectra, *places, 2, **dd))
            hidden = max(int(self.in_channels * reduction), 16)
            count, axes = self.num_kernels * param_ratio, not kernel_gates_only
            self.branch = KernelModulation(self.in_channels, self.kernel_shape, count, hidden, axes, local_gates, **dd)
            banded = height in band_kernel_sizes or (bands_if_strided and self.stride[0] > 1)
            self.bands = make_bands(self.in_channels, bands or {}, dd) if banded else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise kernel and bias like ``nn.Conv2d``, gates as in the branches; T as at first."""
        self.temperature.fill_(self.initial_temperature)
        if self.is_dynamic:
            out_channels, inputs, height, width = self.kernel_shape
            order = frequency_order(out_channels * height, inputs * width, "cpu")
            self.set_constant("order", order.int(), self.temperature.device)
        weight = torch.empty(self.kernel_shape, device=next(self.parameters()).device)
        start_like_conv2d(weight, self.bias)
        with torch.no_grad():
            self._set_kernel(weight)
        if self.is_dynamic:
            self.branch.reset_parameters()
            if self.bands is not None:
                self.bands.reset_parameters()

    def coefficients(self, x: Tensor) -> FDConvCoefficients | None:
        """Return the gates of the kernel; None if the layer is an ordinary convolution."""
        if not self.is_dynamic:
            return None
        logits: FDConvCoefficients = self.branch(x)
        temperature = self.temperature.to(logits.kernel.dtype)

        def gates(z: Tensor | None) -> Tensor | None:
            return None if z is None else gates_of(z / temperature, self.activation, self.gate_scale)

        spatial, local = gates(logits.spatial), logits.local
        return FDConvCoefficients(
            gates(logits.channel),
            gates(logits.filter),
            None if spatial is None else spatial.unflatten(1, self.kernel_size),
            gates_of(logits.kernel / (temperature * self.kernel_heat), self.activation),
            None if local is None else gates_of(local, self.local_activation, self.gate_scale),
        )

    def forward(self, x: Tensor, coefficients: FDConvCoefficients | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]``."""
        gates = self.coefficients(x) if coefficients is None else coefficients
        if gates is None:
            x, geometry = self.convolution_arguments(x)
            return plain_conv2d(x, self.weight, self.bias, **geometry)
        kernels = self._kernels(gates)
        x, geometry = self.convolution_arguments(x if self.bands is None else self.bands.modulate(x))
        output = dynamic_conv2d(x, kernels.to(x.dtype), **geometry)
        return output if self.bias is None else output + self.bias.to(output.dtype)[:, None, None]

    def static_kernel(self, coefficients: FDConvCoefficients | None) -> StaticKernel:
        """See the base class."""
        return StaticKernel(self.weight if coefficients is None else self._kernels(coefficients)[0], self.bias)

    def static_obstacle(self) -> str:
        """See the base class."""
        if not self.is_dynamic or self.bands is None:
            return ""
        return "it scales bands of its input at every position (band_kernel_sizes=() builds it without)"

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from the spectrum of W under gates that change nothing.

        At the first step the heads learn, but not the layers before them, whose gradient is zero.

        Raises:
            ValueError: If ``param_reduction`` leaves out frequencies.
        """
        if self.is_dynamic:
            if self.param_reduction < 1:
                raise ValueError("param_reduction below 1 leaves frequencies out: use preserve_outputs=False")
            self.branch.zero_()
            if self.bands is not None:
                nn.init.zeros_(self.bands.weight)
                nn.init.zeros_(self.bands.bias)
            # what the gates of logits zero multiply to
            at_zero = 1.0 if self.activation == "tanh" else self.gate_scale / 2
            factor = at_zero ** sum(head is not None for head in self.branch.heads[:3])
            if self.branch.local_conv is not None and self.local_activation == "sigmoid":
                factor *= self.gate_scale / 2
            weight = weight * (self.param_reduction / (self.param_ratio * factor))
        self._set_kernel(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def _stored_kernels(self) -> Tensor:
        return self.dft_weight

    def extra_repr(self) -> str:
        """Add the number of kernels, or that there is only one."""
        return f"{super().extra_repr()}, " + (f"num_kernels={self.num_kernels}" if self.is_dynamic else "static")

    def _set_kernel(self, weight: Tensor) -> None:
        if not self.spectral:
            self.weight.copy_(weight)
            return
        spectrum = spectrum_of(weight)
        if self.param_reduction < 1:
            spectrum = spectrum.flatten(0, 1)[self.order[: self.kept].to(spectrum.device, torch.long)]
        self.dft_weight.copy_(spectrum)

    def _kernels(self, gates: FDConvCoefficients) -> Tensor:
        """Build ``[B, C_out, C_in/groups, k, k]``."""
        kernels = kernels_of(self._spectra(gates.kernel), self.kernel_shape)
        if gates.local is not None:
            kernels = kernels * gates.local
        # the small gates first: fewer products of the kernels' size
        outer = None
        if gates.channel is not None and gates.filter is not None:
            inputs = gates.channel.view(kernels.shape[0], self.groups, 1, -1)
            inputs = inputs.expand(-1, -1, self.out_channels // self.groups, -1).flatten(1, 2)
            outer = (gates.filter[..., None] * inputs)[..., None, None]
        if gates.spatial is not None:
            spatial = gates.spatial[:, None, None]
            outer = spatial if outer is None else outer * spatial
        return kernels if outer is None else kernels * outer

    def _spectra(self, gates: Tensor) -> Tensor:
        """Weight the frequencies by ``gates [B, r n]`` and sum them: complex ``[B, O k, I k // 2 + 1]``."""
        batch, spectra = gates.shape[0], self.param_ratio
        order = self.order[: self.kept].to(gates.device, torch.long)
        weight = self.dft_weight if self.spectral else spectrum_of(self.weight)
        # FFTs know no half precision
        dtype = torch.promote_types(torch.promote_types(weight.dtype, gates.dtype), torch.float32)
        group = gates.view(batch, spectra, self.num_kernels, 1).expand(-1, -1, -1, self.kept // self.num_kernels)
        factors = group.reshape(batch, spectra, self.kept).to(dtype)
        if self.param_reduction < 1:
            # the parameters are in the order of radii, and the official code scales neither them nor the gates
            parts = weight.to(dtype).view(spectra, self.kept, 2) * factors[..., None]
            total = parts.sum(1) / (spectra * self.num_kernels)
            places = total.new_zeros(batch, math.prod(self.plane), 2).index_copy(1, order, total)
            return torch.view_as_complex(places).view(batch, *self.plane)
        # back from the order of radii to places: each is written once, so that gradients need no atomic sums
        placed = torch.zeros_like(factors).index_copy(2, order, factors)
        parts = weight.to(dtype).view(-1, *self.plane, 2) * placed.view(batch, spectra, *self.plane, 1)
        scale = spectrum_scale(self.out_channels, self.kernel_shape[1]) / self.param_reduction
        return torch.view_as_complex(parts.sum(1) * scale)
