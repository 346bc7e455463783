"""A static convolution for inference, together with the activation behind it."""

from __future__ import annotations

from torch import Tensor, fx, nn

from dyvision.layers.static import StaticConv2d
from dyvision.ops.activation import activated
from dyvision.ops.geometry import Padding
from dyvision.ops.static import static_conv2d


class FusedConv2d(StaticConv2d):
    """``nn.Conv2d`` with an activation, computed by kernels of our own where they are faster: what ``fuse`` makes.

    Its state dict is that of the convolution.
    """

    fused_activation: str = "none"

    @classmethod
    def of(cls, conv: nn.Conv2d, activation: str = "none") -> FusedConv2d:
        """Build it with the parameters of a convolution, which they share.

        Args:
            conv: The convolution.
            activation: One of :data:`dyvision.ops.native.ACTIVATIONS`.
        """
        fused = cls.from_conv(conv)
        assert isinstance(fused, FusedConv2d)
        fused.weight, fused.bias, fused.fused_activation = conv.weight, conv.bias, activation
        return fused

    def forward(self, x: Tensor, coefficients: None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]`` to ``[B, C_out, H', W']``, and activate."""
        if not isinstance(x, fx.Proxy) and self.padding_mode == "zeros":
            padding: Padding = "same" if self.pads_same else self.padding
            arguments = (self.stride, padding, self.dilation, self.groups)
            found = static_conv2d(x, self.weight, self.bias, arguments, self.fused_activation)
            if found is not None:
                return found
        output = super().forward(x)
        return output if isinstance(x, fx.Proxy) else activated(output, self.fused_activation)

    def extra_repr(self) -> str:
        """Add the activation."""
        return f"{super().extra_repr()}, fused_activation={self.fused_activation!r}"
