"""ODConv: kernels weighted along all four of their dimensions.

Li et al., "Omni-Dimensional Dynamic Convolution", ICLR 2022, arXiv 2209.07947, Eq. 2 and section 3.2. Official:
``OSVAI/ODConv``, ``modules/odconv.py``. The formula has one set of spatial, input and output attentions per kernel; the
code, and the published numbers of parameters, have one set that all kernels share, and so does this file:
``y = a_f * ((a_c * x) * sum_n a_w[n] a_s W_n)``. The official training anneals the temperature from 30 to 1 over the
first ten epochs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._at_once import PredictsGates
from dyvision.layers._initialise import FAN_OUT
from dyvision.layers._odconv_branch import ODConvAttention, ODConvCoefficients
from dyvision.layers._registry import register_layer
from dyvision.layers._weight import StaticKernel
from dyvision.layers.arguments import Conv2dArguments, check_between, check_positive, factory_kwargs
from dyvision.layers.tempered import Tempered
from dyvision.ops import dynamic_conv2d, mixture_conv2d
from dyvision.ops.activation import activated
from dyvision.ops.gated import gated_mixture
from dyvision.ops.geometry import Size
from dyvision.ops.kernels import mix_kernels
from dyvision.ops.modes import has_open_size
from dyvision.ops.native import Gates


@register_layer("odconv")
class ODConv2d(Tempered, PredictsGates):
    """Convolution with ``y = a_f * ((a_c * x) * sum_n a_w[n] a_s W_n) + bias``.

    The official layer has no bias; ours is static and added at the end. The filter attention is left out for depthwise
    convolutions, the spatial one for 1x1 kernels and the kernel attention for ``num_kernels=1``.

    Args:
        num_kernels: Kernels K; the paper uses 1 and 4.
        bank: ``"full"`` for K whole kernels, ``"tucker"`` for a factorised bank, ``U_out G_k U_in``: two 1x1
            convolutions around cores G_k, of which the K are mixed. Depthwise layers keep whole kernels.
        rank: Of a factorised bank: a share of the channels, a float in (0, 1], by default 0.5, or the rank itself, an
            int.
        reduction: Width of the attention's hidden layer over ``in_channels``.
        min_width: Lower bound of that width.
        temperature: Initial T, divides all four logits; saved with the parameters (see ``set_temperature``).

    Shape:
        As ``nn.Conv2d``; for the coefficients see :class:`ODConvCoefficients`.

    Example:
        >>> ODConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    branch_type = ODConvAttention

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        num_kernels: int = 4,
        bank: str = "full",
        rank: float | None = None,
        reduction: float = 1 / 16,
        min_width: int = 16,
        temperature: float = 1.0,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        check_positive("num_kernels", num_kernels)
        check_positive("min_width", min_width)
        check_between("reduction", reduction, math.inf)
        dd = factory_kwargs(args, kwargs)
        height, width = self.kernel_size
        depthwise = self.groups == self.in_channels == self.out_channels
        self.branch = ODConvAttention(
            self.in_channels,
            max(int(self.in_channels * reduction), min_width),
            out_channels=0 if depthwise else self.out_channels,
            taps=0 if height * width == 1 else height * width,
            num_kernels=0 if num_kernels == 1 else num_kernels,
            **dd,
        )
        self.make_bank(num_kernels, bank, rank, **dd)
        self.bias = nn.Parameter(torch.empty(self.out_channels, **dd)) if self.has_bias else None
        self.keep_temperature(temperature, dd["device"])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each kernel kaiming-normal (fan out), the bias 0; T as at first.

        Gates start near 0.5 each, which nothing compensates: the layer expects a normalisation behind it.
        """
        self.set_temperature(self.initial_temperature)
        self.branch.reset_parameters()
        self.reset_bank(FAN_OUT)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def coefficients(self, x: Tensor) -> ODConvCoefficients:
        """Return the attentions over input channels, output channels, taps and kernels."""
        branch = self.branch
        logits = branch(x)
        if branch.fused_fc is None:
            logits = logits / self.temperature.to(logits.dtype)
        *lengths, kernels = branch.sizes
        gates, kernel = logits.split_with_sizes((logits.shape[1] - kernels, kernels), 1)
        channel, filters, spatial = torch.sigmoid(gates).split_with_sizes(lengths, 1)
        return ODConvCoefficients(
            channel,
            filters if lengths[1] else None,
            spatial.reshape(-1, *self.kernel_size) if lengths[2] else None,
            torch.softmax(kernel, 1) if kernels else None,
        )

    def gates(self) -> Gates | None:
        """See the base class."""
        return Gates(*self.branch.sizes) if self.branch.fused_fc is not None else None

    def forward(self, x: Tensor, coefficients: ODConvCoefficients | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]``."""
        if coefficients is None and (found := self.convolve_at_once(x)) is not None:
            return found
        attention = self.coefficients(x) if coefficients is None else coefficients
        return activated(self._convolve_gated(x, attention), self.fused_activation)

    def _convolve_gated(self, x: Tensor, attention: ODConvCoefficients) -> Tensor:
        """Gate kernels as they are mixed, where there is code for that; else kernels or maps, whichever are smaller."""
        if self.uses_factors(x):
            return self._convolve_factors(x, attention)
        padded, geometry = self.convolution_arguments(x)
        channel, filters, spatial, mixture = attention
        kernels = self.kernels()
        gated = gated_mixture(padded, kernels, mixture, channel, filters, spatial, self.bias, geometry)
        if gated is not None:
            return gated
        numbers = math.prod(self.kernel_shape)
        strides = self.stride[0] * self.stride[1]
        # an exporter of free sizes would keep the answer for the one that it sees
        if has_open_size(x) or 2 * numbers < (self.in_channels + self.out_channels / strides) * x.shape[2] * x.shape[3]:
            bias = None if self.bias is None else self.bias.expand(x.shape[0], -1)
            return dynamic_conv2d(padded, self._gated_kernels(kernels, attention).to(x.dtype), bias, **geometry)
        output = self._convolve(_scale(padded, channel), kernels, attention, geometry)
        bias = None if self.bias is None else self.bias.to(output.dtype)[:, None, None]
        if filters is None:
            return output if bias is None else output + bias
        gate = filters.to(output.dtype)[:, :, None, None]
        return output * gate if bias is None else torch.addcmul(bias, output, gate)

    def _convolve_factors(self, x: Tensor, attention: ODConvCoefficients) -> Tensor:
        """Convolve with the factors of the bank, and with the channels' gates on them or on the map."""
        channel, filters, pixels = attention.channel, attention.filter, x.shape[2] * x.shape[3]
        assert self.ranks is not None
        open_size = has_open_size(x)
        if open_size or self.ranks.inputs < pixels:
            rows = channel.unflatten(1, (self.groups, 1, -1)).expand(-1, -1, self.ranks.inputs, -1).flatten(1, 2)
            reduced = self._by_sample(x, self.input_factor * rows, None, self.reducing_stride)
        else:
            reduced = self.reduce_inputs(_scale(x, channel))
        padded, geometry = self.inner_arguments(reduced)
        output = self._convolve(padded, self.weight, attention, geometry)
        if filters is None:
            return self.expand_outputs(output, self.bias)
        return self._by_sample(output, self.output_factor * filters[:, :, None], self.bias)

    def _by_sample(self, x: Tensor, factors: Tensor, bias: Tensor | None, stride: Size = 1) -> Tensor:
        """Apply a factor per sample, ``[B, C', C/groups]``, and a bias ``[C']`` that is the same for all."""
        bias = None if bias is None else bias.expand(x.shape[0], -1)
        return dynamic_conv2d(x, factors.to(x.dtype)[..., None, None], bias, stride, groups=self.groups)

    def _gated_kernels(self, kernels: Tensor, attention: ODConvCoefficients) -> Tensor:
        """Kernels ``[B, C_out, C_in/groups, kH, kW]`` with all attentions, at least float32."""
        channel, filters, spatial, mixture = attention
        kernels = kernels if mixture is None else mix_kernels(kernels, mixture)
        batch, groups = channel.shape[0], self.groups
        if groups == 1 and spatial is None:
            kernels = kernels * channel.reshape(batch, 1, -1, 1, 1)
            return kernels if filters is None else kernels * filters.reshape(batch, -1, 1, 1, 1)
        gates = channel.reshape(batch, groups, 1, -1, 1)
        if spatial is not None:
            gates = gates * spatial.reshape(batch, 1, 1, 1, -1)
        kernels = kernels.view(-1, groups, self.out_channels // groups, *gates.shape[3:]) * gates
        if filters is not None:
            kernels = kernels * filters.reshape(batch, groups, -1, 1, 1)
        return kernels.view(batch, *self.kernel_shape)

    def _convolve(self, x: Tensor, kernels: Tensor, attention: ODConvCoefficients, geometry: dict[str, Any]) -> Tensor:
        """Convolve with the mixture of kernels, or of cores, and its taps; the gates of channels are not applied."""
        kernel, taps = attention.kernel, attention.spatial
        if kernel is None and taps is None:
            # the kernel is 1x1 and static; torch knows no "same" with a stride, and here it pads nothing
            plain = {**geometry, "padding": 0 if geometry["padding"] == "same" else geometry["padding"]}
            return F.conv2d(x, kernels[0], **plain)
        if kernel is None:
            kernel = attention.channel.new_ones(x.shape[0], 1)
        return mixture_conv2d(x, kernels, kernel, **geometry, taps=taps)

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from ``W_n = 2^gates W`` plus noise that sums to zero, under gates of exactly 0.5 and equal attention.

        At the first step the heads learn, but not the hidden layer before them, whose gradient is zero.
        """
        for head in self.branch.heads:
            if head is not None:
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
        gates = sum(head is not None for head in self.branch.heads[:3])
        self.start_bank(weight * 2**gates)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def static_kernel(self, coefficients: ODConvCoefficients) -> StaticKernel:
        """See the base class."""
        return StaticKernel(self._gated_kernels(self.kernels(), coefficients)[0], self.bias)

    def fold_affine(self, factor: Tensor, shift: Tensor) -> bool:
        """Scale the kernels and the bias, which no attention scales."""
        self.absorb(factor, shift)
        return True

    def fuse_branch(self) -> None:
        """See the base class."""
        self.branch.fuse(float(self.temperature))


def _scale(maps: Tensor, gates: Tensor) -> Tensor:
    """Multiply the channels of ``[B, C, H, W]`` by ``[B, C]``."""
    return maps * gates.to(maps.dtype)[:, :, None, None]
