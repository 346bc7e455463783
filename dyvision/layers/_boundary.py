"""Where an input enters a layer: what ``nn.Conv2d`` takes, a dynamic layer takes, and else it says what it expects.

Every ``forward`` of a dynamic layer is wrapped by :func:`at_boundary` when its class is defined, that of an own layer
included.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from dyvision.ops.autocast import autocasts
from dyvision.ops.empty_batch import empty_output
from dyvision.ops.geometry import resolve

Forward = Callable[..., Tensor]


class Convolution(Protocol):
    """A layer with the arguments of ``nn.Conv2d``, as far as an input has to fit them."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: str | tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As of ``nn.Module``."""

    def extra_repr(self) -> str:
        """As of ``nn.Module``."""


def at_boundary(forward: Forward) -> Forward:
    """Wrap a layer's ``forward(x, coefficients=None)``.

    * An unbatched ``[C, H, W]`` is a batch of one, as for ``nn.Conv2d``.
    * An empty batch gives an empty output, whose gradients are zeros.
    * ``torch.fx`` records one call of the layer, whatever the tracer thinks of leaves.
    * What a library says about a type, device or size that does not fit names the layer.
    """

    @functools.wraps(forward)
    def guarded(self: Convolution, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(x, Tensor) and x.ndim == 4:
            if torch.jit.is_tracing():  # shapes are recorded, not compared
                return forward(self, x, *args, **kwargs)
            if x.shape[1] == self.in_channels and x.numel():
                if torch.compiler.is_compiling():
                    return forward(self, x, *args, **kwargs)
                try:
                    return forward(self, x, *args, **kwargs)
                except (RuntimeError, TypeError, ValueError) as error:
                    _explain(self, x, error)
                    raise
        return _unusual(self, forward, x, args, kwargs)

    # a code object for each layer: torch.compile counts how often it compiles one, and gives up at eight
    own: Any = guarded
    own.__code__ = own.__code__.replace(co_name=forward.__qualname__)
    return guarded


def record_call(module: object, *args: Any, **kwargs: Any) -> Any:
    """Record one call of a module in the graph that the ``torch.fx`` proxy ``args[0]`` belongs to."""
    tracer = args[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, kwargs)


def refuse_script(module: nn.Module) -> None:
    """Say that ``torch.jit.script`` cannot compile a module.

    Raises:
        TypeError: Always.
    """
    raise TypeError(
        f"torch.jit.script cannot compile {type(module).__name__}; use torch.export, torch.compile or torch.jit.trace"
    )


def refuse_fusion(layer: Convolution) -> None:
    """Say that ``torch.nn.utils.fusion`` cannot fold a BatchNorm into a layer, when that is who copies it.

    It scales ``weight``, which of a dynamic layer is not all, or not one, of the kernels: some outputs would be wrong.
    Nothing but a look at its callers tells a layer whom it is copied for.

    Raises:
        TypeError: If so.
    """
    copier = sys._getframe(2)  # copy.deepcopy, which calls the layer's __reduce_ex__; None above it when pickled
    if copier.f_back is not None and copier.f_back.f_globals.get("__name__") == "torch.nn.utils.fusion":
        raise TypeError(
            f"torch.nn.utils.fusion cannot fold a BatchNorm into {type(layer).__name__}, whose weight is not all of "
            "its kernel: use dyvision.fuse(model)"
        )


def describe(layer: Convolution) -> str:
    """Class and arguments of a layer."""
    return f"{type(layer).__name__}({layer.extra_repr()})"


def _unusual(layer: Convolution, forward: Forward, x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(x, fx.Proxy):
        return record_call(layer, x, *args, **kwargs)
    if not isinstance(x, Tensor):
        raise TypeError(f"{describe(layer)} expects a tensor [B, C, H, W] or [C, H, W], got {type(x).__name__}")
    if x.ndim == 3:
        return at_boundary(forward)(layer, x.unsqueeze(0), *args, **kwargs).squeeze(0)
    if x.ndim != 4:
        raise ValueError(f"{describe(layer)} expects [B, C, H, W] or [C, H, W], got a tensor of shape {list(x.shape)}")
    if x.shape[1] != layer.in_channels:
        raise ValueError(
            f"{describe(layer)} expects {layer.in_channels} input channels, got {x.shape[1]} in a tensor of shape "
            f"{list(x.shape)}"
        )
    if 0 in x.shape[2:]:
        raise ValueError(f"{describe(layer)} got an input without pixels, of shape {list(x.shape)}")
    return _empty(layer, x, [*args, *kwargs.values()])


def _empty(layer: Convolution, x: Tensor, coefficients: Iterable[Any]) -> Tensor:
    """``[0, C_out, H', W']`` in the type of other outputs."""
    edges, geometry = resolve(x.shape, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    tensors = (x, *layer.parameters(), *_tensors(coefficients))
    return empty_output(x, layer.out_channels, layer.kernel_size, edges, geometry, tensors)


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)


def _explain(layer: Convolution, x: Tensor, error: Exception) -> None:
    """Raise an error that names the layer if type, device or size of ``x`` are why it failed."""
    if not x.is_floating_point():
        raise TypeError(f"{describe(layer)} expects a floating-point input, got {x.dtype}") from error
    reference = next((p for p in layer.parameters() if p.is_floating_point()), None)
    if reference is not None and reference.device != x.device:
        raise ValueError(
            f"{describe(layer)} is on {reference.device}, its input on {x.device}; move them to one device"
        ) from error
    if reference is not None and reference.dtype != x.dtype and not autocasts(x.device):
        raise TypeError(
            f"{describe(layer)} has parameters of {reference.dtype} and expects such an input, got {x.dtype}; convert "
            "one of them, or use torch.autocast"
        ) from error
    try:
        resolve(x.shape, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    except ValueError as problem:
        raise ValueError(f"{describe(layer)}: {problem}") from error
