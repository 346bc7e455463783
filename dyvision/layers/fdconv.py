"""FDConv: kernels mixed in the Fourier domain, modulated weight by weight, on a map modulated by frequency bands.

Chen et al., "Frequency Dynamic Convolution for Dense Image Prediction", CVPR 2025, arXiv 2503.18783, section
3. Official: ``Linwei-Chen/FDConv``, ``FDConv_detection/mmdet_custom/FDConv.py``. All gates are ``2 sigmoid(z / T)``:
one at z = 0. As in the code the layer is an ordinary convolution where there is little to gain: see
:class:`FDConv2d`.

Differences: the frequencies are sorted stably and their order is saved (the official order of ties depends on the
platform); kernels of odd width work; groups are supported, each output channel using the gates of its own inputs. The
official initialisation leaves the filter gates at kaiming-normal, apparently by mistake; so does this file, unless
``load_static`` sets them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.layers._arguments import check_between, check_positive, check_temperature
from dyvision.layers._base import DynamicConv2d
from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._frequency import BandGates, conv1d_size, frequency_order, kernels_of, spectrum_of
from dyvision.layers._initialise import FAN_OUT, InitialisedConv1d, reset_children
from dyvision.layers._norm import GuardedBatchNorm1d, apply_norm
from dyvision.layers._plain import plain_conv2d
from dyvision.layers._registry import register_layer
from dyvision.ops import dynamic_conv2d

#: the convolution stays static if C_in / groups or C_out is not larger
FEW_CHANNELS = 16
#: or if the kernel has another size
KERNEL_SIZES = ((1, 1), (3, 3))


class FDConvCoefficients(NamedTuple):
    """Gates in (0, 2), one where nothing is changed.

    Attributes:
        channel: ``[B, C_in]``.
        filter: ``[B, C_out]``.
        spatial: ``[B, k, k]``; None for a 1x1 kernel.
        kernel: ``[B, n]``, of the frequency groups.
        local: ``[B, C_out, C_in/groups, k, k]``, one per weight.
    """

    channel: Tensor
    filter: Tensor
    spatial: Tensor | None
    kernel: Tensor
    local: Tensor


class KernelModulation(CoefficientBranch):
    """Logits of all gates: linear layers on a hidden vector, and for the local ones a convolution along channels.

    Args:
        in_channels: Channels of the input.
        kernel_shape: ``(C_out, C_in/groups, k, k)``.
        num_kernels: Frequency groups n.
        hidden: Width of the hidden vector.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_shape: tuple[int, int, int, int],
        num_kernels: int,
        hidden: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        out_channels, _, height, width = kernel_shape
        self.kernel_shape, taps = kernel_shape, height * width
        near_zero: dict[str, Any] = {"initializer": partial(nn.init.normal_, std=1e-6), **dd}
        self.fc = PreciseLinear(in_channels, hidden, bias=False, initializer=FAN_OUT, **dd)
        self.bn = GuardedBatchNorm1d(hidden, **dd)
        # StarReLU: scale * relu(z)^2 + shift
        self.star_scale = nn.Parameter(torch.empty(1, **dd))
        self.star_shift = nn.Parameter(torch.empty(1, **dd))
        self.channel_fc = PreciseLinear(hidden, in_channels, **near_zero)
        self.filter_fc = PreciseLinear(hidden, out_channels, initializer=FAN_OUT, **dd)
        self.spatial_fc: PreciseLinear | None = PreciseLinear(hidden, taps, **near_zero) if taps > 1 else None
        self.kernel_fc: PreciseLinear | None = (
            PreciseLinear(hidden, num_kernels, **near_zero) if num_kernels > 1 else None
        )
        self.norm = nn.LayerNorm(in_channels, **dd)
        self.local_conv = InitialisedConv1d(
            1,
            out_channels * taps,
            conv1d_size(in_channels),
            bias=False,
            initializer=partial(nn.init.constant_, val=1e-6),
            **dd,
        )

    @property
    def heads(self) -> tuple[PreciseLinear | None, ...]:
        """The linear layers that predict logits, in the order of :class:`FDConvCoefficients`."""
        return self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc

    def reset_parameters(self) -> None:
        """Gates near one, apart from the filter gates; see the module's docstring."""
        nn.init.ones_(self.star_scale)
        nn.init.zeros_(self.star_shift)
        reset_children(self)

    def predict(self, pooled: Tensor) -> FDConvCoefficients:
        """Map ``[B, C_in]`` to the logits of the gates; the layer divides them by its temperature."""
        dtype = pooled.dtype
        hidden = torch.relu(apply_norm(self.bn, self.fc(pooled))).square()
        hidden = self.star_scale.to(dtype) * hidden + self.star_shift.to(dtype)
        rows = self._normalise(pooled)
        weight = self.local_conv.weight.to(dtype)
        local = F.conv1d(rows[:, None], weight, padding=weight.shape[2] // 2)
        return FDConvCoefficients(
            self.channel_fc(hidden),
            self.filter_fc(hidden),
            None if self.spatial_fc is None else self.spatial_fc(hidden),
            hidden.new_zeros(hidden.shape[0], 1) if self.kernel_fc is None else self.kernel_fc(hidden),
            self._arrange(local),
        )

    def _normalise(self, pooled: Tensor) -> Tensor:
        norm = self.norm
        if type(norm) is not nn.LayerNorm or not norm.elementwise_affine:
            return apply_norm(norm, pooled)
        # the parameters of a model in half precision, but not the rows: unlike a BatchNorm it has no statistics
        weight, bias = norm.weight.to(pooled.dtype), None if norm.bias is None else norm.bias.to(pooled.dtype)
        return F.layer_norm(pooled, norm.normalized_shape, weight, bias, norm.eps)

    def _arrange(self, local: Tensor) -> Tensor:
        """Reshape ``[B, C_out * k * k, C_in]`` to the kernel's shape; each group keeps its own inputs."""
        out_channels, inputs, height, width = self.kernel_shape
        groups = local.shape[2] // inputs
        split = local.view(-1, groups, out_channels // groups, height, width, groups, inputs)
        own = split.squeeze(5).squeeze(1) if groups == 1 else split.diagonal(dim1=1, dim2=5).movedim(-1, 1)
        return own.reshape(-1, out_channels, height, width, inputs).movedim(-1, 2)


@register_layer("fdconv")
class FDConv2d(DynamicConv2d):
    """Convolution with ``W_b = local * spatial * channel * filter * irfft2(sum_j a[b, j] S_j)``, S_j disjoint spectra.

    For 3x3 kernels three frequency bands of the input are scaled before, each by a map of its own. The layer is an
    ordinary convolution, with a parameter ``weight``, if ``min(C_in / groups, C_out) <= 16`` or the kernel is neither
    1x1 nor 3x3; then ``is_dynamic`` is false and ``coefficients`` returns None.

    Args:
        *args: As for ``nn.Conv2d``.
        num_kernels: Groups n of frequencies; 64 in the paper, must divide their number.
        reduction: Width of the gates' hidden layer over ``in_channels``, at least 16.
        temperature: T, divides the logits of the kernel modulation; saved with the parameters.
        **kwargs: As for ``nn.Conv2d``.

    Shape:
        As ``nn.Conv2d``; ``coefficients`` are :class:`FDConvCoefficients`.

    Example:
        >>> FDConv2d(24, 32, 3, padding=1)(torch.randn(2, 24, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    temperature: Tensor
    order: Tensor

    def __init__(
        self, *args: Any, num_kernels: int = 4, reduction: float = 1 / 16, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        check_positive("num_kernels", num_kernels)
        check_between("reduction", reduction, 1)
        check_temperature(temperature)
        dd: dict[str, Any] = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        self.num_kernels, self.initial_temperature = num_kernels, float(temperature)
        out_channels, inputs, height, width = self.kernel_shape
        self.is_dynamic = min(inputs, out_channels) > FEW_CHANNELS and self.kernel_size in KERNEL_SIZES
        self.bias = nn.Parameter(torch.empty(out_channels, **dd)) if self.has_bias else None
        # float32 whatever the parameters' type; a buffer, so that annealing does not recompile a compiled model
        # fixed, unlike the temperatures that are annealed
        self.register_buffer("temperature", torch.empty((), device=dd["device"]))
        if not self.is_dynamic:
            self.weight = nn.Parameter(torch.empty(self.kernel_shape, **dd))
        else:
            plane = (out_channels * height, inputs * width // 2 + 1)
            if math.prod(plane) % num_kernels:
                raise ValueError(f"num_kernels must divide the number of frequencies {plane}, got {num_kernels}")
            self.dft_weight = nn.Parameter(torch.empty(*plane, 2, **dd))
            self.register_buffer("order", torch.empty(math.prod(plane), dtype=torch.int32, device=dd["device"]))
            hidden = max(int(self.in_channels * reduction), 16)
            self.branch = KernelModulation(self.in_channels, self.kernel_shape, num_kernels, hidden, **dd)
            self.bands = BandGates(self.in_channels, **dd) if self.kernel_size == (3, 3) else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise kernel and bias like ``nn.Conv2d``, gates as in the branches; T as at first."""
        self.temperature.fill_(self.initial_temperature)
        if self.is_dynamic:
            out_channels, inputs, height, width = self.kernel_shape
            self.order.copy_(frequency_order(out_channels * height, inputs * width, self.order.device))
        weight = torch.empty(self.kernel_shape, device=next(self.parameters()).device)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
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
        temperature = self.temperature.to(logits.channel.dtype)
        channel, filters, kernel, local = (
            2 * torch.sigmoid(z / temperature) for z in (logits.channel, logits.filter, logits.kernel, logits.local)
        )
        spatial = logits.spatial
        if spatial is not None:
            spatial = 2 * torch.sigmoid(spatial / temperature).unflatten(1, self.kernel_size)
        return FDConvCoefficients(channel, filters, spatial, kernel, local)

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

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from the spectrum of W under gates of exactly one.

        At the first step the heads learn, but not the layers before them, whose gradient is zero.
        """
        self._set_kernel(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)
        if self.is_dynamic:
            for head in (*self.branch.heads, self.bands):
                if head is not None:
                    nn.init.zeros_(head.weight)
                    nn.init.zeros_(head.bias)
            nn.init.zeros_(self.branch.local_conv.weight)

    def kernels_and_biases(self) -> tuple[list[Tensor], list[Tensor]]:
        """See the base class."""
        return [self.dft_weight if self.is_dynamic else self.weight], [] if self.bias is None else [self.bias]

    def extra_repr(self) -> str:
        """Add the number of kernels, or that there is only one."""
        return f"{super().extra_repr()}, " + (f"num_kernels={self.num_kernels}" if self.is_dynamic else "static")

    def _set_kernel(self, weight: Tensor) -> None:
        if self.is_dynamic:
            self.dft_weight.copy_(spectrum_of(weight))
        else:
            self.weight.copy_(weight)

    def _kernels(self, gates: FDConvCoefficients) -> Tensor:
        """Build ``[B, C_out, C_in/groups, k, k]``."""
        batch, frequencies = gates.kernel.shape[0], self.order.numel()
        # back from the order of radii to places: each is written once, so that gradients need no atomic sums
        sorted_factors = gates.kernel[..., None].expand(-1, -1, frequencies // self.num_kernels).reshape(batch, -1)
        factors = torch.zeros_like(sorted_factors).index_copy(1, self.order.long(), sorted_factors)
        kernels = kernels_of(self.dft_weight, factors.view(batch, *self.dft_weight.shape[:2]), self.kernel_shape)
        # the small gates first: fewer products of the kernels' size
        inputs = gates.channel.view(batch, self.groups, 1, -1).expand(-1, -1, self.out_channels // self.groups, -1)
        outer = (gates.filter[..., None] * inputs.flatten(1, 2))[..., None, None]
        if gates.spatial is not None:
            return kernels * gates.local * (outer * gates.spatial[:, None, None])
        return kernels * gates.local * outer
