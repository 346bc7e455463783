"""What the methods that mix K kernels share: how these are stored, whole or factorised, and the start of them.

A bank of K whole kernels takes K times the memory of a static layer in parameters, gradients and optimiser state.
``bank="tucker"`` stores ``W_k = U_out G_k U_in``: K small cores, and two factors that all kernels have in common
(:mod:`dyvision.ops.tucker`). What mixes the kernels mixes the cores, between two static 1x1 convolutions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dyvision.layers._base import DynamicConv2d
from dyvision.layers._initialise import Initializer, spread_kernels
from dyvision.layers.arguments import DoesNotFitError, check_positive
from dyvision.layers.norm import absorb
from dyvision.ops.geometry import Size
from dyvision.ops.modes import has_open_size
from dyvision.ops.tucker import (
    Ranks,
    apply_factor,
    expand,
    expand_outputs,
    expansion_macs,
    random_factor,
    truncated_hosvd,
)
from dyvision.text import did_you_mean

BANKS = ("full", "tucker")
#: share of the largest ranks, where none is given
RANK = 0.5


class Form(NamedTuple):
    """Multiply-adds of one way to compute a layer from a factorised bank, without its branch and biases.

    Attributes:
        static: Per sample, of convolutions whose weights do not depend on the input.
        dynamic: Per sample, of the one whose kernel is mixed.
        mixing: Per sample, of the mixing.
        once: Of what does not depend on the samples.
    """

    static: int
    dynamic: int
    mixing: int
    once: int

    def total(self, batch: int) -> int:
        """Of a batch."""
        return batch * (self.static + self.dynamic + self.mixing) + self.once


class BankedConv2d(DynamicConv2d, abstract=True):
    """Base of layers with K kernels of one shape.

    ``weight`` is ``[K, C_out, C_in/groups, kH, kW]``, or, of a factorised bank, the cores
    ``[K, groups * R_out, R_in, kH, kW]`` beside ``input_factor [groups * R_in, C_in/groups]`` and
    ``output_factor [C_out, R_out]``; :meth:`kernels` are the K kernels in either case.
    """

    num_kernels: int
    #: of a factorised bank; None where whole kernels are stored
    ranks: Ranks | None = None
    #: whether every output channel has coefficients of its own
    mixes_per_channel: bool = False

    def make_bank(self, num_kernels: int, bank: str, rank: float | None, **factory: Any) -> None:
        """Register the parameters of K kernels.

        Args:
            num_kernels: K.
            bank: ``"full"`` or ``"tucker"``. A layer with one input or one output channel per group (a depthwise one)
                has nothing to factorise, and stores whole kernels in either case.
            rank: Of the factorised bank; see :func:`find_ranks`.
            **factory: Device and type.

        Raises:
            ValueError: If an argument is out of range.
        """
        check_positive("num_kernels", num_kernels)
        self.num_kernels = num_kernels
        self.ranks = self._find_ranks(bank, rank)
        shape = self.kernel_shape
        if self.ranks is not None:
            shape = (self.groups * self.ranks.outputs, self.ranks.inputs, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(num_kernels, *shape, **factory))
        if self.ranks is not None:
            inputs, (outputs, channels) = self.groups * self.ranks.inputs, self.kernel_shape[:2]
            self.input_factor = nn.Parameter(torch.empty(inputs, channels, **factory))
            self.output_factor = nn.Parameter(torch.empty(outputs, self.ranks.outputs, **factory))

    def reset_bank(self, initialise: Initializer) -> None:
        """Initialise each kernel; factors are random and orthonormal, and the kernels have the variance of whole ones.

        Args:
            initialise: Sets a kernel ``[C_out, C_in/groups, kH, kW]`` to numbers that are independent and alike.
        """
        if self.ranks is None:
            for kernel in self.weight:
                initialise(kernel)
            return
        (outputs, inputs), (out_channels, channels) = self.ranks, self.kernel_shape[:2]
        out_channels //= self.groups
        whole = torch.empty(self.kernel_shape, device="cpu", dtype=torch.float32)
        with torch.no_grad():
            self.input_factor.copy_(random_factor(inputs, channels, self.groups))
            self.output_factor.copy_(random_factor(out_channels, outputs, self.groups))
            for core in self.weight:
                initialise(whole)
                part = whole.unflatten(0, (self.groups, -1))[:, :outputs, :inputs].flatten(0, 1)
                # of an orthonormal basis of R of C vectors, a number of the expanded kernel gets R / C of the variance
                core.copy_(part * math.sqrt(out_channels * channels / (outputs * inputs)))

    def start_bank(self, weight: Tensor) -> None:
        """Start from one kernel, plus noise that sums to zero; factorised, as close to it as the ranks allow."""
        if self.ranks is None:
            self.weight.copy_(spread_kernels(weight, self.num_kernels))
        elif not weight.is_meta:
            try:
                core, inputs, outputs = truncated_hosvd(weight, self.ranks, self.groups)
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}: bank='tucker' cannot start from it: {error}") from None
            self.input_factor.copy_(inputs)
            self.output_factor.copy_(outputs)
            self.weight.copy_(spread_kernels(core.to(self.weight.device, self.weight.dtype), self.num_kernels))

    def kernels(self) -> Tensor:
        """All K kernels, ``[K, C_out, C_in/groups, kH, kW]``."""
        if self.ranks is None:
            return self.weight
        return expand(self.weight, self.input_factor, self.output_factor, self.groups)

    def kernels_and_biases(self) -> tuple[list[Tensor], list[Tensor]]:
        """See the base class."""
        kernels, biases = super().kernels_and_biases()
        return kernels if self.ranks is None else [*kernels, self.input_factor, self.output_factor], biases

    def half_kernels(self) -> Tensor:
        """The kernels of a factorised bank without its input factor, ``[K, C_out, R_in, kH, kW]``."""
        return expand_outputs(self.weight, self.output_factor, self.groups)

    def absorb(self, factor: Tensor, shift: Tensor) -> None:
        """Multiply the output channels by ``factor [C_out]`` and add ``shift [C_out]``, in the parameters."""
        absorb(self, factor, shift, None if self.ranks is None else self.output_factor[:, :, None, None])

    def forms(self, inputs: int, outputs: int) -> tuple[Form, Form]:
        """What a factorised bank costs: with factors as convolutions, and with the kernels written out.

        Args:
            inputs: Positions of the input.
            outputs: Positions of the output.
        """
        assert self.ranks is not None
        count, taps, numbers = self.num_kernels, math.prod(self.kernel_size), math.prod(self.kernel_shape)
        factor = self.input_factor.numel() * (outputs if self.reduces_at_once else inputs)
        if self.mixes_per_channel:  # of output channels: their factor comes before the mixing
            half = self.out_channels * self.ranks.inputs * taps
            factors = Form(factor, half * outputs, count * half, count * half * self.ranks.outputs)
        else:
            core = self.weight[0].numel()
            factors = Form(factor + self.output_factor.numel() * outputs, core * outputs, count * core, 0)
        once = count * min(expansion_macs(self.kernel_shape, self.ranks, self.groups))
        return factors, Form(0, numbers * outputs, count * numbers, once)

    def uses_factors(self, x: Tensor) -> bool:
        """Whether to convolve ``x`` with the factors, or to write the kernels out first: by multiply-adds."""
        if self.ranks is None:
            return False
        if has_open_size(x):  # an exporter of free sizes would keep the answer for the one that it sees
            return True
        batch, _, height, width = x.shape
        factors, written_out = self.forms(height * width, -(-height // self.stride[0]) * -(-width // self.stride[1]))
        return factors.total(batch) <= written_out.total(batch)

    @property
    def reduces_at_once(self) -> bool:
        """Whether the layer's stride can be that of its input factor: if its kernel is 1x1 and nothing is padded."""
        return self.kernel_size == (1, 1) and self.padding in ((0, 0), "valid", "same")

    def inner_arguments(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """As :meth:`convolution_arguments`, behind the input factor: to pad before it or behind it is the same."""
        x, geometry = self.convolution_arguments(x)
        return x, {**geometry, "stride": 1, "padding": 0} if self.reduces_at_once else geometry

    @property
    def reducing_stride(self) -> Size:
        """The stride of the input factor."""
        return self.stride if self.reduces_at_once else 1

    def reduce_inputs(self, x: Tensor) -> Tensor:
        """Apply the input factor to ``[B, C_in, H, W]``."""
        return apply_factor(x, self.input_factor, self.groups, stride=self.reducing_stride)

    def expand_outputs(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the output factor to ``[B, groups * R_out, H', W']``, and add ``bias [C_out]``."""
        return apply_factor(x, self.output_factor, self.groups, bias)

    def extra_repr(self) -> str:
        """Add the number of kernels, and the ranks of a factorised bank."""
        text = f"{super().extra_repr()}, num_kernels={self.num_kernels}"
        return text if self.ranks is None else f"{text}, bank='tucker', ranks={tuple(self.ranks)}"

    def _find_ranks(self, bank: str, rank: float | None) -> Ranks | None:
        """The ranks that ``bank`` and ``rank`` mean for this layer's channels; None for whole kernels."""
        name = type(self).__name__
        if bank not in BANKS:
            hint = did_you_mean(bank, BANKS) if isinstance(bank, str) else ""
            raise ValueError(f"{name}: bank must be one of {', '.join(BANKS)}, got {bank!r}{hint}")
        if bank == "full":
            if rank is not None:
                raise ValueError(f"{name}: rank={rank!r} is for bank='tucker', and bank is 'full'")
            return None
        largest = Ranks.largest(self.kernel_shape, self.groups)
        rank = RANK if rank is None else rank
        share = isinstance(rank, float) and 0 < rank <= 1
        if not share and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
            raise ValueError(
                f"{name}: rank must be a share of the channels, a float in (0, 1], or the rank itself, an int of at "
                f"least 1 (here at most {min(largest)}), got {rank!r}"
            )
        if 1 in (self.out_channels // self.groups, self.in_channels // self.groups):
            return None
        if share:
            return Ranks(*(max(1, round(rank * most)) for most in largest))
        if rank > min(largest):
            height, width = self.kernel_size
            raise DoesNotFitError(
                f"{name}: rank={rank} is more than {min(largest)}, the most of a {height}x{width} kernel from "
                f"{self.in_channels} to {self.out_channels} channels in {self.groups} groups; a float in (0, 1] is a "
                "share of what each layer has",
                "rank",
                min(largest),
            )
        return Ranks(int(rank), int(rank))
