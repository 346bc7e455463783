"""The ordinary convolution, under the same interface as the dynamic layers: every comparison is against it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, fx, nn

from dyvision.layers._boundary import record_call
from dyvision.layers._registry import register_layer
from dyvision.ops.geometry import Padding, Size, is_channels_last, pads, pair


@register_layer("static")
class StaticConv2d(nn.Conv2d):
    """``nn.Conv2d`` whose ``padding="same"`` also works with a stride (TensorFlow's rule)."""

    shares_coefficients: bool = False

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
    ) -> None:
        self.pads_same = padding == "same" and padding_mode == "zeros"
        own: Any = 0 if self.pads_same else padding
        mode: Any = padding_mode
        sizes = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        kernel, strides, dilations = (pair(name, value, 1) for name, value in sizes.items())
        super().__init__(in_channels, out_channels, kernel, strides, own, dilations, groups, bias, mode, device, dtype)

    def coefficients(self, x: Tensor) -> None:
        """Return None: nothing depends on the input."""
        return None

    def forward(self, x: Tensor, coefficients: None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]`` to ``[B, C_out, H', W']``."""
        if isinstance(x, fx.Proxy):
            return record_call(self, x)
        if self.pads_same:
            (top, bottom), (left, right) = pads(x.shape[-2:], self.kernel_size, self.stride, "same", self.dilation)
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, preserve_outputs: bool = True, **kwargs: Any) -> StaticConv2d:
        """Build the layer in place of another static convolution; see ``DynamicConv2d.from_conv``.

        Raises:
            ValueError: If there are further arguments: a static convolution has none.
        """
        if kwargs:
            raise ValueError(f"a static convolution has no argument {', '.join(kwargs)}")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            "same" if isinstance(conv, Conv2dSame) else conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            conv.weight.device,
            conv.weight.dtype,
        )
        if preserve_outputs:
            layer.load_state_dict(conv.state_dict())
            for name, parameter in conv.named_parameters(recurse=False):
                layer.get_parameter(name).requires_grad_(parameter.requires_grad)
        if is_channels_last(conv.weight):
            layer.to(memory_format=torch.channels_last)
        return layer.train(conv.training)
