"""Layers whose branch, mixture and convolution are one call, where there is code for it."""

from __future__ import annotations

from functools import lru_cache

from torch import Size as Shape
from torch import Tensor, nn

from dyvision.ops import native
from dyvision.ops.geometry import Geometry, Padding, Size, resolve
from dyvision.ops.measuring import wants_measurement
from dyvision.ops.native import Gates
from dyvision.ops.perceptron import is_small
from dyvision.ops.plain import is_plain_inference
from dyvision.ops.planned import plans_natively
from dyvision.ops.planner import forced_formulation


def predicted_conv2d(
    input: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    first: nn.Linear | None,
    second: nn.Linear,
    gates: Gates,
    arguments: tuple[Size, Padding, Size, int],
    activation: str = "none",
) -> Tensor | None:
    """Convolve each sample with the kernels and gates that ``second(relu(first(mean(input))))`` predicts.

    Args:
        input: ``[B, C_in, H, W]``.
        kernels: ``[K, C_out, C_in/groups, kH, kW]``.
        bias: ``[C_out]``, which nothing scales, or ``[K, C_out]``, mixed as the kernels, or None.
        first: From C_in to any number; None without such a layer.
        second: From that, or C_in, to the gates.
        gates: What the numbers are; kernels are multiplied by their gates of channels, filters and taps.
        arguments: Stride, padding, dilation and groups.
        activation: One of :data:`dyvision.ops.native.ACTIVATIONS`, applied to the output.

    Returns:
        ``[B, C_out, H', W']``; None where a call is no plain inference, or another way is faster or forced.
    """
    hidden, hidden_bias = (None, None) if first is None else (first.weight, first.bias)
    tensors = (kernels, bias, hidden, hidden_bias, second.weight, second.bias)
    if not is_plain_inference(input, tensors):
        return None
    shapes = tuple([None if tensor is None else tensor.shape for tensor in tensors])
    # what is planned may be forced, or measured
    call = _prepare(input.shape, shapes, gates, arguments, activation, forced_formulation(), wants_measurement())
    return None if call is None else call(input, *tensors)


def given_mixture(
    input: Tensor,
    kernels: Tensor,
    coefficients: Tensor,
    bias: Tensor | None,
    arguments: tuple[Size, Padding, Size, int],
    activation: str = "none",
) -> Tensor | None:
    """Convolve each sample with a mixture of kernels, and activate, in one call.

    Args:
        input: ``[B, C_in, H, W]``.
        kernels: ``[K, C_out, C_in/groups, kH, kW]``.
        coefficients: ``[B, K]`` or ``[B, K, C_out]``.
        bias: ``[C_out]``, or ``[K, C_out]``, mixed as the kernels, or None.
        arguments: Stride, padding, dilation and groups.
        activation: One of :data:`dyvision.ops.native.ACTIVATIONS`, applied to the output.

    Returns:
        ``[B, C_out, H', W']``; None where a call is no plain inference, or another way is faster or forced.
    """
    if not is_plain_inference(input, (kernels, coefficients, bias)):
        return None
    shapes = (kernels.shape, coefficients.shape, None if bias is None else bias.shape)
    call = _prepare_given(input.shape, *shapes, arguments, activation, forced_formulation(), wants_measurement())
    return None if call is None else call(input, kernels, coefficients, bias)


@lru_cache(4096)
def _prepare(
    shape: Shape,
    shapes: tuple[Shape | None, ...],
    gates: Gates,
    arguments: tuple[Size, Padding, Size, int],
    activation: str,
    *_: object,
) -> native.Layer | None:
    """What computes tensors of these shapes; None if they are not those of one layer, or other ways are faster."""
    kernels, bias, first, first_bias, second, second_bias = shapes
    if len(shape) != 4 or kernels is None or len(kernels) != 5 or second is None:
        return None
    (batch, channels), (count, outputs, depth, *kernel), groups = shape[:2], kernels, arguments[3]
    hidden = 0 if first is None else first[0]
    expected = Gates(
        channels if gates.channel and (groups == 1 or depth == 1) else 0,
        outputs if gates.filter else 0,
        kernel[0] * kernel[1] if gates.tap else 0,
        count if gates.kernel or count > 1 else 0,
        gates.softmax,
    )
    fits = (
        gates == expected
        and channels == groups * depth
        and outputs % groups == 0
        and (first is None or first == (hidden, channels))
        and first_bias in (None, (hidden,))
        and second == (gates.total, hidden or channels)
        and second_bias in (None, (gates.total,))
        and bias in (None, (outputs,), (count, outputs))
    )
    if not fits or not is_small(batch, *(weight for weight in (first, second) if weight is not None)):
        return None
    geometry = _led_geometry(shape, kernels, arguments, not gates.tap)
    if geometry is None:
        return None
    sizes = (batch, (shape[2], shape[3]), tuple(kernels[1:]), geometry)
    return native.layer(*sizes, gates, hidden, native.kind_of_bias(bias), activation)


@lru_cache(4096)
def _prepare_given(
    shape: Shape,
    kernels: Shape,
    coefficients: Shape,
    bias: Shape | None,
    arguments: tuple[Size, Padding, Size, int],
    activation: str,
    *_: object,
) -> native.Convolution | None:
    """As :func:`_prepare`, with coefficients that are given."""
    if len(shape) != 4 or len(kernels) != 5:
        return None
    (batch, channels), (count, outputs, depth), groups = shape[:2], kernels[:3], arguments[3]
    fits = (
        channels == groups * depth
        and outputs % groups == 0
        and coefficients in ((batch, count), (batch, count, outputs))
        and bias in (None, (outputs,), (count, outputs))
    )
    geometry = _led_geometry(shape, kernels, arguments) if fits else None
    if geometry is None:
        return None
    sizes = (batch, (shape[2], shape[3]), tuple(kernels[1:]), geometry, count)
    return native.convolution(*sizes, len(coefficients) == 3, native.kind_of_bias(bias), activation)


def _led_geometry(
    shape: Shape, kernels: Shape, arguments: tuple[Size, Padding, Size, int], linear: bool = True
) -> Geometry | None:
    """The geometry of a mixture that native kernels compute; None if another way is faster or forced."""
    edges, geometry = resolve(shape, kernels[3:], *arguments)
    leads = edges is None and plans_natively(shape, kernels, arguments, training=False, linear=linear)
    return geometry if leads else None
