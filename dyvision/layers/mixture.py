"""What the methods that mix K kernels share: the convolution itself."""

from __future__ import annotations

from torch import Tensor

from dyvision.layers._at_once import PredictsGates
from dyvision.layers._weight import StaticKernel
from dyvision.layers.norm import absorb
from dyvision.ops import mixture_conv2d
from dyvision.ops.activation import activated
from dyvision.ops.kernels import mix_kernels
from dyvision.ops.predicted import given_mixture


class MixtureConv2d(PredictsGates, abstract=True):
    """Base of layers with stacked kernels ``weight [K, C_out, C_in/groups, kH, kW]``, mixed by their coefficients."""

    num_kernels: int
    #: Whether the coefficients of a sample sum to one, so that what is the same in all kernels can be among them.
    sums_to_one: bool = False

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]`` with the kernels mixed by ``coefficients [B, K]`` or ``[B, K, C_out]``."""
        if coefficients is None:
            if (found := self.convolve_at_once(x)) is not None:
                return found
            coefficients = self.coefficients(x)
        elif self.padding_mode == "zeros":
            arguments = (self.stride, self.padding, self.dilation, self.groups)
            found = given_mixture(x, self.weight, coefficients, self.bias, arguments, self.fused_activation)
            if found is not None:
                return found
        x, geometry = self.convolution_arguments(x)
        return activated(mixture_conv2d(x, self.weight, coefficients, self.bias, **geometry), self.fused_activation)

    def static_kernel(self, coefficients: Tensor) -> StaticKernel:
        """See the base class."""
        weight, bias = mix_kernels(self.weight, coefficients)[0], self.bias
        if bias is not None and bias.ndim == 2:
            bias = coefficients[0] @ bias.to(coefficients.dtype)
        return StaticKernel(weight, bias)

    def fold_affine(self, factor: Tensor, shift: Tensor) -> bool:
        """Scale the kernels; the shift becomes a static bias, or part of each kernel's."""
        if self.bias is not None and self.bias.ndim == 2 and not self.sums_to_one:
            return False
        absorb(self, factor, shift)
        return True

    def extra_repr(self) -> str:
        """Add the number of kernels."""
        return f"{super().extra_repr()}, num_kernels={self.num_kernels}"
