"""Plain inference on a CPU, which kernels of our own may compute: whether a call is that, and what computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, wraps
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import ParamSpec

from dyvision.ops import native
from dyvision.ops.autocast import autocasts
from dyvision.ops.geometry import Padding, Size, resolve
from dyvision.ops.modes import is_traced, is_watched

_P = ParamSpec("_P")
#: subclasses may have no memory, or give another meaning to it
PLAIN = (Tensor, nn.Parameter, type(None))


def is_plain_inference(input: Tensor, others: Iterable[Tensor | None]) -> bool:
    """Tell whether native kernels may compute with these tensors.

    Args:
        input: ``[B, C, H, W]``.
        others: What it is computed with.

    Returns:
        False while gradients are recorded for one of them, while operations are traced, watched or autocast, in other
        types and memory formats than contiguous float32, on other devices, of nothing, and without the kernels.
    """
    return is_plain((input, *others), inference=True)


def is_recorded(tensors: Iterable[Tensor]) -> bool:
    """Whether gradients are recorded for one of some tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_plain(tensors: Sequence[Tensor | None], inference: bool = False) -> bool:
    """Whether native kernels may read these tensors, the input first; see :func:`is_plain_inference`."""
    if is_traced() or not native.available():
        return False
    records = inference and torch.is_grad_enabled()
    # one loop, no generators: it takes longer than a small convolution
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in PLAIN or tensor.dtype is not torch.float32 or not tensor.is_cpu:
            return False
        if tensor.layout is not torch.strided or (records and tensor.requires_grad):
            return False
    input = tensors[0]
    assert input is not None
    return not is_watched() and not autocasts(input.device) and input.is_contiguous() and input.numel() > 0


def _remembered(prepare: Callable[_P, native.Convolution | None]) -> Callable[_P, native.Convolution | None]:
    """Keep what was prepared: checking and preparing take longer than a small convolution."""
    # as many signatures as the operators remember; a cache has no type for its arguments
    kept = cast("Callable[_P, native.Convolution | None]", lru_cache(4096)(prepare))

    @wraps(prepare)
    def find(*args: _P.args, **kwargs: _P.kwargs) -> native.Convolution | None:
        try:
            return kept(*args, **kwargs)
        except TypeError:  # a list of integers
            return prepare(*args, **kwargs)

    return find


@_remembered
def plain_convolution(
    shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
    mixed: int = 0,
    per_channel: bool = False,
    bias: str = "none",
    by_channel: bool = False,
) -> native.Convolution | None:
    """Prepare a convolution with one kernel per sample, see :func:`dyvision.ops.native.convolution`.

    Args:
        shape: Of the input, ``(B, C_in, H, W)``.
        kernel_shape: ``(C_out, C_in/groups, kH, kW)``.
        stride: Int or pair.
        padding: Int, pair, ``"valid"`` or ``"same"``.
        dilation: Int or pair.
        groups: Number of groups.
        mixed: Kernels K that are mixed; 0 if they are given.
        per_channel: Whether the coefficients are ``[B, K, C_out]``.
        bias: One of :data:`dyvision.ops.native.BIASES`.
        by_channel: Whether the factors of the weights are per input channel and tap.

    Returns:
        The convolution; None if the padding is not the same on both sides, and without the kernels.

    Raises:
        ValueError: If an argument is out of range, or the kernel is larger than the padded input.
    """
    edges, geometry = resolve(shape, kernel_shape[2:], stride, padding, dilation, groups)
    if edges is not None:
        return None
    return native.convolution(
        shape[0], shape[2:], kernel_shape, geometry, mixed, per_channel, bias, by_channel=by_channel
    )


def have_shapes(*expected: tuple[Tensor | None, tuple[int, ...]]) -> bool:
    """Whether tensors have the sizes of one layer, so that nothing beside them is read; None fits."""
    return all(tensor is None or tensor.shape == shape for tensor, shape in expected)
