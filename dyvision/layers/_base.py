"""What all dynamic layers share: the arguments of ``nn.Conv2d``, their checks, the start from a static convolution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from typing_extensions import Never

from dyvision.layers._boundary import at_boundary, refuse_fusion, refuse_script
from dyvision.layers._branch import CoefficientBranch
from dyvision.layers._weight import StaticKernel, StoredKernels
from dyvision.layers.arguments import (
    abstract_methods,
    check_dtype,
    check_own_arguments,
    check_positive,
    reject_unknown,
)
from dyvision.ops.geometry import Padding, Size, is_channels_last, pads, pair
from dyvision.signatures import SharesArguments

Layer = TypeVar("Layer", bound="DynamicConv2d")

_REPRESENTED = (
    *(("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1)),
    *(("padding_mode", "zeros"), ("fused_activation", "none")),
)
_PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class DynamicConv2d(SharesArguments, nn.Module):
    """Base of the dynamic layers, a drop-in for ``nn.Conv2d``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Int or pair.
        stride: Int or pair.
        padding: Int, pair, ``"valid"``, or ``"same"``: TensorFlow's rule, which also works with a stride.
        dilation: Int or pair.
        groups: Number of groups; ``groups == in_channels`` is a depthwise convolution.
        bias: Whether the layer has a bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **unknown: None: what no layer takes is reported with the arguments that there are.

    Shape:
        ``[B, C_in, H, W]`` to ``[B, C_out, H', W']`` with ``nn.Conv2d``'s ``H'`` and ``W'``.

    Raises:
        ValueError: If an argument is out of range; the message names it, its value and what is allowed.
        TypeError: If there is no such argument.

    A subclass implements ``reset_parameters``, ``coefficients``, ``forward`` and ``load_static``. One that leaves some
    of them to its own subclasses says so: ``class Base(DynamicConv2d, abstract=True)``.
    """

    #: Whether one branch per block predicts the coefficients of all its layers.
    shares_coefficients: bool = False
    #: Whether layers of one stage, with kernels of the same sizes, keep these in common storage.
    shares_kernels: bool = False
    #: Whether :meth:`fuse_branch` has been called.
    fused: bool = False
    #: Whether ``forward`` applies :attr:`fused_activation`, one of ``dyvision.ops.native.ACTIVATIONS``, to the output.
    applies_activation: bool = False
    fused_activation: str = "none"
    #: What holds the kernels: a parameter of this name, or the layer's own (FDConv's spectrum, a warehouse's cells).
    weight: Tensor = StoredKernels()  # type: ignore[assignment]  # a descriptor that gives tensors
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unknown: Never,
    ) -> None:
        missing = abstract_methods(type(self))
        if missing:
            raise TypeError(f"{type(self).__name__} cannot be built: it does not implement {', '.join(missing)}")
        if unknown:
            reject_unknown(type(self), DynamicConv2d, unknown)
        super().__init__()
        check_dtype(dtype)
        for name, value in (("groups", groups), ("in_channels", in_channels), ("out_channels", out_channels)):
            check_positive(name, value)
            if value % groups:
                raise ValueError(f"{name}={value} must be divisible by groups={groups}")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(_PADDING_MODES)}, got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride = pair("stride", stride, 1)
        self.dilation = pair("dilation", dilation, 1)
        self.padding: str | tuple[int, int] = padding if isinstance(padding, str) else pair("padding", padding, 0)
        pads((1, 1), self.kernel_size, self.stride, self.padding, self.dilation)
        self.padding_mode = padding_mode
        self.has_bias = bool(bias)

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        missing = abstract_methods(cls)
        if missing and not abstract:
            raise TypeError(
                f"{cls.__name__} does not implement {', '.join(missing)}, as every subclass of DynamicConv2d has to "
                f"(or: class {cls.__name__}(..., abstract=True), a base of other layers)"
            )
        if "forward" in vars(cls) and "forward" not in missing:
            cls.forward = at_boundary(cls.forward)  # type: ignore[method-assign]

    def __reduce_ex__(self, protocol: Any) -> Any:
        refuse_fusion(self)
        return super().__reduce_ex__(protocol)

    def __prepare_scriptable__(self) -> None:
        refuse_script(self)

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """Shape of one kernel: ``(C_out, C_in/groups, kH, kW)``."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @abstractmethod
    def reset_parameters(self) -> None:
        """Initialise as the method's official code does."""

    @abstractmethod
    def coefficients(self, x: Tensor) -> Any:
        """Return what the branch predicts for ``x [B, C_in, H, W]``."""

    @abstractmethod
    def forward(self, x: Tensor, coefficients: Any = None) -> Tensor:
        """Convolve ``x [B, C_in, H, W]``; ``coefficients`` are the shared branch's if the layer has none of its own."""

    @abstractmethod
    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Set the parameters such that the layer computes the static convolution with this weight and bias."""

    @classmethod
    def from_conv(cls: type[Layer], conv: nn.Conv2d, preserve_outputs: bool = True, **kwargs: Any) -> Layer:
        """Build the layer in place of a static convolution.

        Args:
            conv: The convolution (``nn.Conv2d`` or timm's ``Conv2dSame``).
            preserve_outputs: Start with the same function as ``conv``; otherwise with the method's own initialisation.
            **kwargs: Arguments of the method.

        Returns:
            A layer of the same shapes, type, device, memory format and training mode, with frozen kernels (and a frozen
            bias) where ``conv`` has them and outputs are preserved.
        """
        check_own_arguments(cls, DynamicConv2d, kwargs)
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding="same" if isinstance(conv, Conv2dSame) else conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
            **kwargs,
        )
        if preserve_outputs:
            with torch.no_grad():
                layer.load_static(conv.weight, conv.bias)
            layer.freeze_like(conv)
        if is_channels_last(conv.weight):
            layer.to(memory_format=torch.channels_last)
        return layer.train(conv.training)

    def kernels_and_biases(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters that hold the static convolution's weight, and those that hold its bias."""
        bias = getattr(self, "bias", None)  # a layer of one's own may have none
        return [self.weight], [] if bias is None else [bias]

    def static_kernel(self, coefficients: Any) -> StaticKernel:
        """The kernel and bias under the coefficients of one sample, with a batch axis of 1.

        Raises:
            ValueError: If no ordinary convolution computes that; :meth:`static_obstacle` says why.
        """
        raise ValueError(f"{type(self).__name__}: {self.static_obstacle()}")

    def static_obstacle(self) -> str:
        """Why no ordinary convolution computes the layer even under fixed coefficients; empty if one does."""
        lacks = type(self).static_kernel is DynamicConv2d.static_kernel
        return "its class does not implement static_kernel" if lacks else ""

    def _stored_kernels(self) -> Tensor:  # of a layer without a parameter of the name "weight"
        raise AttributeError(f"{type(self).__name__} object has no attribute 'weight'")

    def freeze_like(self, conv: nn.Conv2d) -> None:
        """Freeze the kernels and the bias if those of a convolution are; what predicts coefficients stays trainable."""
        kernels, biases = self.kernels_and_biases()
        for theirs, ours in ((conv.weight, kernels), (conv.bias, biases)):
            for parameter in ours:
                if theirs is not None and not theirs.requires_grad:
                    parameter.requires_grad_(False)

    @classmethod
    def make_shared_branch(cls, in_channels: int, layers: Sequence[DynamicConv2d]) -> CoefficientBranch:
        """Build the branch of a block; a method may add optional arguments of its own.

        Args:
            in_channels: Channels of the block's input.
            layers: The block's layers, built with ``branch=False``.

        Returns:
            A module that maps the block's input to a tuple with one entry per layer.

        Raises:
            ValueError: If the method has one branch per layer.
        """
        raise ValueError(f"{cls.__name__} predicts coefficients per layer, not per block")

    def fold_affine(self, factor: Tensor, shift: Tensor) -> bool:
        """Multiply the output channels by ``factor [C_out]`` and add ``shift [C_out]``, in the layer's parameters.

        Returns:
            Whether it was done; False, with nothing changed, if the layer's parameters cannot express it.
        """
        return False

    def fuse_branch(self) -> None:
        """Fold parameters of the branch, and of what it steers, into one another: evaluation only, and in place."""

    @classmethod
    def share_kernels(cls, layers: Sequence[DynamicConv2d]) -> None:
        """Give layers common storage for their kernels, initialised anew.

        Args:
            layers: Of this class, in the order in which the network calls them.

        Raises:
            ValueError: If the method keeps kernels per layer.
        """
        raise ValueError(f"{cls.__name__} keeps kernels per layer")

    def convolution_arguments(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return the input, padded if ``padding_mode`` is not zeros, and the geometry for ``dyvision.ops``."""
        padding: Padding = self.padding
        if self.padding_mode != "zeros":
            (top, bottom), (left, right) = self.pads(x)
            x = F.pad(x, (left, right, top, bottom), mode=_PADDING_MODES[self.padding_mode])
            padding = 0
        geometry = {"stride": self.stride, "padding": padding, "dilation": self.dilation, "groups": self.groups}
        return x, geometry

    def pads(self, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """Padding (top, bottom), (left, right) of ``x``."""
        return pads(x.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DynamicConv2d:
        def apply(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 and not isinstance(tensor, nn.Parameter):
                # a schedule: float32 whatever the parameters' type
                moved = fn(tensor)
                return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
            # Module.to(memory_format=torch.channels_last) refuses five dimensions: stacked kernels go as four
            if tensor.ndim != 5:
                return fn(tensor)
            converted: Tensor = fn(tensor.flatten(0, 1))
            return converted.unflatten(0, tensor.shape[:2])

        return super()._apply(apply, recurse)

    def extra_repr(self) -> str:
        """Describe the layer as ``nn.Conv2d`` does."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, default in _REPRESENTED:
            value = getattr(self, name)
            text += "" if value == default else f", {name}={value!r}"
        return text if self.has_bias else f"{text}, bias=False"
