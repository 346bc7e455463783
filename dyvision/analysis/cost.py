"""What a call of a dynamic layer costs: by a rule per layer class, or as it is executed.

A rule counts the multiply-adds of the cheapest formulation, of those it names, that computes the layer exactly in
evaluation mode, whichever formulation runs. A layer without a rule counts as executed; :data:`cheapest_cost` takes
further rules::

    @cheapest_cost.register(MyConv2d)
    def _(layer, call):
        return Cost(dynamic=convolution(layer, call), branch=call.branch)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import accumulate
from operator import mul
from typing import Any

from dyvision.layers.bank import BankedConv2d
from dyvision.layers.channel_attention import ChannelAttentionConv2d
from dyvision.layers.dcd import DCDConv2d
from dyvision.layers.dgc import DGConv2d
from dyvision.layers.drconv import DRConv2d
from dyvision.layers.fdconv import FDConv2d
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d
from dyvision.layers.mixture import MixtureConv2d
from dyvision.layers.odconv import ODConv2d
from dyvision.layers.sk import SKConv2d
from dyvision.layers.weightnet import WeightNetConv2d


@dataclass(frozen=True)
class Cost:
    """Multiply-adds by their purpose.

    Attributes:
        static: Convolutions and matrix products whose weights do not depend on the input.
        dynamic: One convolution per dynamic layer.
        branch: Prediction of the coefficients.
        mixing: All else in dynamic layers: mixing or generating kernels, gates, low-rank paths, further convolutions
            whose outputs are mixed.
    """

    static: int = 0
    dynamic: int = 0
    branch: int = 0
    mixing: int = 0

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return self.static + self.dynamic + self.branch + self.mixing

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.static + other.static,
            self.dynamic + other.dynamic,
            self.branch + other.branch,
            self.mixing + other.mixing,
        )


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        input_shape: ``[B, C_in, H, W]``.
        output_shape: ``[B, C_out, H', W']``.
        executed: Multiply-adds executed by the layer, those of its branches included.
        branch: Of these, executed by its branches.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    executed: int
    branch: int

    @property
    def batch(self) -> int:
        """Samples B."""
        return self.input_shape[0]

    @property
    def inputs(self) -> int:
        """Positions ``H * W`` of the input."""
        return math.prod(self.input_shape[2:])

    @property
    def outputs(self) -> int:
        """Positions ``H' * W'`` of the output."""
        return math.prod(self.output_shape[2:])


def convolution(layer: Any, call: Call) -> int:
    """Multiply-adds of one convolution of the layer's shape, for the whole batch; the zeros of padding count."""
    return call.batch * call.outputs * math.prod(layer.kernel_shape)


def executed_cost(layer: Any, call: Call) -> Cost:
    """Split what was executed: the branch is measured, one convolution is computed, the rest is mixing."""
    rest = call.executed - call.branch
    if isinstance(layer, BankedConv2d) and layer.ranks is not None:
        form = min(layer.forms(call.inputs, call.outputs), key=lambda form: form.total(call.batch))
        fixed, one = call.batch * form.static, call.batch * form.dynamic
        return Cost(fixed, one, call.branch, rest - fixed - one)
    one = min(rest, convolution(layer, call))
    # the kernel of these does not depend on the input
    static = isinstance(layer, ChannelAttentionConv2d) or (isinstance(layer, FDConv2d) and not layer.is_dynamic)
    return Cost(one if static else 0, 0 if static else one, call.branch, rest - one)


@singledispatch
def cheapest_cost(layer: Any, call: Call) -> Cost:
    """Cost of the cheapest exact formulation; as executed for layers without a rule.

    Args:
        layer: A dynamic layer; its class chooses the rule.
        call: One call of it.
    """
    return executed_cost(layer, call)


def _dynamic(layer: Any, call: Call, mixing: int) -> Cost:
    return Cost(dynamic=convolution(layer, call), branch=call.branch, mixing=call.batch * mixing)


def _output_mixing(layer: Any, call: Call, count: int) -> int:
    """Per sample, beyond one convolution: convolve with all kernels, then a weighted sum of the outputs."""
    return (count - 1) * math.prod(layer.kernel_shape) * call.outputs + count * layer.out_channels * call.outputs


@cheapest_cost.register
def _mixture(layer: MixtureConv2d, call: Call) -> Cost:
    """CondConv, DyConv, DyNet: mix K kernels, or the outputs of K convolutions."""
    count = layer.num_kernels
    biases = count * layer.out_channels if layer.bias is not None and layer.bias.ndim == 2 else 0
    if layer.ranks is not None:
        return _factorised(layer, call, [form.mixing + biases for form in layer.forms(call.inputs, call.outputs)])
    kernels = min(count * math.prod(layer.kernel_shape), _output_mixing(layer, call, count))
    return _dynamic(layer, call, kernels + biases)


def _factorised(layer: BankedConv2d, call: Call, mixing: Sequence[int]) -> Cost:
    """Of a factorised bank: its factors are convolutions around that with the mixed core, or the kernels written out.

    Args:
        layer: The layer.
        call: One call of it.
        mixing: Multiply-adds per sample of the mixing in either form.
    """
    costs = [
        Cost(call.batch * form.static, call.batch * form.dynamic, call.branch, call.batch * own + form.once)
        for form, own in zip(layer.forms(call.inputs, call.outputs), mixing, strict=True)
    ]
    return min(costs, key=lambda cost: cost.total)


@cheapest_cost.register
def _dcd(layer: DCDConv2d, call: Call) -> Cost:
    """The residual ``P Phi Q^T`` as one kernel per sample, which joins W0, or as a low-rank path on feature maps.

    Lambda scales W0 or its output. BatchNorm is folded, as everywhere.
    """
    # each block on its own share of the channels
    rank, inputs, outputs = (number // layer.blocks for number in (layer.rank, layer.in_channels, layer.out_channels))
    kernel = layer.blocks * (rank * rank * outputs + rank * outputs * inputs)
    maps = layer.blocks * rank * (inputs + rank + outputs) * call.outputs
    scale = min(math.prod(layer.kernel_shape), layer.out_channels * call.outputs)
    return _dynamic(layer, call, min(kernel, maps) + scale)


@cheapest_cost.register
def _odconv(layer: ODConv2d, call: Call) -> Cost:
    """Mixing with the gates among its coefficients, or gates on the feature maps, whichever is cheaper for each."""
    inputs, outputs, count = layer.in_channels, layer.out_channels, layer.num_kernels
    taps = math.prod(layer.kernel_size)
    numbers = math.prod(layer.kernel_shape)
    # K coefficients and the gates of the taps act on kernels; those of channels on kernels or on maps
    always = [size for size in (count, taps) if size > 1]
    on_input, on_output = inputs * call.inputs, (outputs * call.outputs if layer.branch.sizes[1] else 0)
    costs = []
    for channel in (False, True):
        for filters in (False, True) if on_output else (False,):
            pair = numbers // taps if channel and filters else inputs if channel else outputs if filters else 0
            factors = sorted([*always, *([pair] if pair else [])])
            products = sum(list(accumulate(factors, mul))[1:]) + (pair if channel and filters else 0)
            kernels = count * numbers if factors else 0
            costs.append(kernels + products + (0 if channel else on_input) + (0 if filters else on_output))
    if taps == 1 and count > 1:
        costs.append(_output_mixing(layer, call, count) + count * outputs + on_input)
    if layer.ranks is None:
        return _dynamic(layer, call, min(costs))
    core = math.prod(always) * (len(always) > 1) + count * layer.weight[0].numel() * (len(always) > 0)
    gates = min(layer.input_factor.numel(), on_input) + min(layer.output_factor.numel(), on_output)
    return _factorised(layer, call, [core + gates, min(costs)])


@cheapest_cost.register
def _kernelwarehouse(layer: KernelWarehouseConv2d, call: Call) -> Cost:
    """Each of m pieces of the kernel is a mixture of N cells."""
    cells = layer.warehouse
    return _dynamic(layer, call, layer.num_mixtures * cells.num_cells * math.prod(cells.cell_shape))


@cheapest_cost.register
def _weightnet(layer: WeightNetConv2d, call: Call) -> Cost:
    """Generate the kernel from M/G activations per number, or convolve with the generator and mix M outputs."""
    numbers, per_group = math.prod(layer.kernel_shape), layer.activations_per_group
    weighted_sum = per_group * layer.generator_groups * layer.out_channels * call.outputs
    outputs = (per_group - 1) * numbers * call.outputs + weighted_sum
    return _dynamic(layer, call, min(per_group * numbers, outputs))


@cheapest_cost.register
def _drconv(layer: DRConv2d, call: Call) -> Cost:
    """Each position needs the output of its own region only; generating the kernels and the guide are the branch."""
    return _dynamic(layer, call, 0)


@cheapest_cost.register
def _dgc(layer: DGConv2d, call: Call) -> Cost:
    """Channels that a head drops are skipped; its gates scale its part of the kernel, or its inputs.

    Gates that tie are dropped too; they count as kept. As trained: nothing is dropped before ``set_progress``.
    """
    kept = layer.in_channels - int(layer.inactive_channels)
    gates = min(math.prod(layer.kernel_shape) * kept // layer.in_channels, layer.heads * kept * call.inputs)
    dense = convolution(layer, call)
    return Cost(dynamic=dense * kept // layer.in_channels, branch=call.branch, mixing=call.batch * gates)


@cheapest_cost.register
def _fdconv(layer: FDConv2d, call: Call) -> Cost:
    """Mix n kernels, or scale frequencies and transform; gate the kernel; split the map by Fourier transforms."""
    if not layer.is_dynamic:
        return Cost(static=convolution(layer, call))
    numbers, taps = math.prod(layer.kernel_shape), math.prod(layer.kernel_size)
    count, inputs, outputs = layer.num_kernels * layer.param_ratio, layer.in_channels, layer.out_channels
    spectra = 2 * layer.kept * layer.param_ratio
    mixing = min(count * numbers, spectra + _fourier(numbers)) if count > 1 else 0
    spatial = numbers if layer.branch.spatial_fc is not None else 0
    if layer.branch.local_conv is not None:
        mixing += numbers
    if layer.branch.channel_fc is not None:
        mixing += min(numbers // taps + spatial + numbers, inputs * call.inputs + outputs * call.outputs + spatial)
    if layer.bands is not None:
        bands = len(layer.bands.masks) + layer.bands.low
        mixing += inputs * ((1 + bands) * _fourier(call.inputs) + bands * call.inputs)
    return _dynamic(layer, call, mixing)


def _fourier(count: int) -> int:
    """Multiply-adds of one Fourier transform of real numbers: 5/4 N log2 N, half of FFTW's nominal operations."""
    return int(1.25 * count * math.log2(max(count, 2)))


@cheapest_cost.register
def _channel_attention(layer: ChannelAttentionConv2d, call: Call) -> Cost:
    """SE, ECA: the gates depend on the output of the static convolution, and scale it."""
    gates = layer.out_channels * call.outputs
    return Cost(static=convolution(layer, call), branch=call.branch, mixing=call.batch * gates)


@cheapest_cost.register
def _sk(layer: SKConv2d, call: Call) -> Cost:
    """All M convolutions and the weighted sum of their outputs."""
    return _dynamic(layer, call, _output_mixing(layer, call, layer.branches))
