"""What the methods whose kernels are one mixture of K share: the convolution itself."""

from __future__ import annotations

from torch import Tensor

from dyvision.layers._at_once import PredictsGates
from dyvision.layers._weight import StaticKernel
from dyvision.ops import mixture_conv2d
from dyvision.ops.activation import activated
from dyvision.ops.dynamic import add_bias
from dyvision.ops.kernels import mix_kernels
from dyvision.ops.mixture import mix_bias
from dyvision.ops.predicted import given_mixture


class MixtureConv2d(PredictsGates, abstract=True):
    """Base of layers with K kernels that are mixed by their coefficients."""

    #: Whether the coefficients of a sample sum to one, so that what is the same in all kernels can be among them.
    sums_to_one: bool = False

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]`` with the kernels mixed by ``coefficients [B, K]`` or ``[B, K, C_out]``."""
        if coefficients is None:
            if (found := self.convolve_at_once(x)) is not None:
                return found
            coefficients = self.coefficients(x)
        elif self.padding_mode == "zeros" and self.ranks is None:
            arguments = (self.stride, self.padding, self.dilation, self.groups)
            found = given_mixture(x, self.weight, coefficients, self.bias, arguments, self.fused_activation)
            if found is not None:
                return found
        return activated(self._convolve(x, coefficients), self.fused_activation)

    def _convolve(self, x: Tensor, coefficients: Tensor) -> Tensor:
        if self.uses_factors(x):
            return self._convolve_factors(x, coefficients)
        x, geometry = self.convolution_arguments(x)
        return mixture_conv2d(x, self.kernels(), coefficients, self.bias, **geometry)

    def _convolve_factors(self, x: Tensor, coefficients: Tensor) -> Tensor:
        x, geometry = self.inner_arguments(self.reduce_inputs(x))
        if coefficients.ndim == 3:  # of output channels, which the cores do not have
            return mixture_conv2d(x, self.half_kernels(), coefficients, self.bias, **geometry)
        x = mixture_conv2d(x, self.weight, coefficients, **geometry)
        if self.bias is None or self.bias.ndim == 1:
            return self.expand_outputs(x, self.bias)
        output = self.expand_outputs(x)
        return add_bias(output, mix_bias(self.bias, coefficients, x.shape[0]).to(output.dtype))

    def static_kernel(self, coefficients: Tensor) -> StaticKernel:
        """See the base class."""
        weight, bias = mix_kernels(self.kernels(), coefficients)[0], self.bias
        if bias is not None and bias.ndim == 2:
            bias = coefficients[0] @ bias.to(coefficients.dtype)
        return StaticKernel(weight, bias)

    def fold_affine(self, factor: Tensor, shift: Tensor) -> bool:
        """Scale the kernels; the shift becomes a static bias, or part of each kernel's."""
        if self.bias is not None and self.bias.ndim == 2 and not self.sums_to_one:
            return False
        self.absorb(factor, shift)
        return True
