"""DRConv: every position chooses one of R kernels, and the kernels are generated from the input.

Chen et al., "Dynamic Region-Aware Convolution", CVPR 2021, arXiv 2003.12243, section 3. The authors published no code;
reference: the unofficial ``shallowtoil/DRConv-PyTorch``, ``drconv.py``. The choice is the argmax of a guide map.
Backwards it counts as a softmax: the guide receives the gradient of ``sum_r softmax(G)_r <dy, Y_r>``, the kernels that
of the hard choice.

One kernel, shared by all regions, is added to the generated ones if they are larger than 1x1. It is zero at the start
and not in the reference, whose generator has one bias for all taps of a kernel, so that no parameters make it compute a
given 3x3 convolution.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import DynamicConv2d, check_positive
from dyvision.layers._branch import CoefficientBranch, PreciseLinear, pool_to
from dyvision.layers._plain import plain_conv2d
from dyvision.layers._registry import register_layer
from dyvision.layers.arguments import Conv2dArguments, factory_kwargs
from dyvision.ops import dynamic_conv2d
from dyvision.ops.geometry import Size
from dyvision.ops.modes import is_exporting


class DRConvCoefficients(NamedTuple):
    """``kernels [B, R, C_out, C_in/groups, kH, kW]``; ``guide [B, R, H', W']``, whose argmax over R is the region."""

    kernels: Tensor
    guide: Tensor


class KernelGenerator(CoefficientBranch):
    """Generates a kernel per region: ``Wg2(sigmoid(Wg1 pool(x)))``, tap by tap from the map pooled to ``kH x kW``.

    Args:
        in_channels: Channels of the input.
        regions: Regions R; the hidden layer has R values per region and tap.
        kernel_shape: ``(C_out, C_in/groups, kH, kW)``.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        regions: int,
        kernel_shape: tuple[int, int, int, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.regions, self.kernel_shape = regions, kernel_shape
        self.hidden = PreciseLinear(in_channels, regions * regions, **dd)
        numbers = kernel_shape[0] * kernel_shape[1]
        self.weight = nn.Parameter(torch.empty(regions, numbers, regions, **dd))
        self.bias = nn.Parameter(torch.empty(regions, numbers, **dd))

    def reset_parameters(self) -> None:
        """PyTorch's own for linear layers."""
        self.hidden.reset_parameters()
        bound = 1 / math.sqrt(self.regions)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, taps, C_in]`` to ``[B, R, C_out, C_in/groups, kH, kW]``."""
        hidden = torch.sigmoid(self.hidden(pooled)).unflatten(2, (self.regions, self.regions))
        kernels = torch.einsum("btrj,rnj->brnt", hidden, self.weight.to(hidden.dtype))
        kernels = kernels + self.bias.to(hidden.dtype)[:, :, None]
        return kernels.reshape(pooled.shape[0], self.regions, *self.kernel_shape)

    def _pool(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return pool_to(x.to(dtype), self.kernel_shape[2:]).flatten(2).transpose(1, 2)


class Guide(CoefficientBranch):
    """Scores the regions at every position of the output, by a dense convolution with the layer's kernel size.

    Args:
        in_channels: Channels of the input.
        regions: Regions R.
        kernel_size: Height and width.
        geometry: Stride, padding and dilation.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        regions: int,
        kernel_size: tuple[int, int],
        geometry: dict[str, Any],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(regions, in_channels, *kernel_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(regions, device=device, dtype=dtype))
        self.geometry = geometry

    def reset_parameters(self) -> None:
        """PyTorch's own for convolutions."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, C_in, H, W]``, which nothing has pooled, to ``[B, R, H', W']``."""
        return plain_conv2d(pooled, self.weight.to(pooled.dtype), self.bias.to(pooled.dtype), **self.geometry)

    def _pool(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32))


@register_layer("drconv")
class DRConv2d(DynamicConv2d):
    """Convolution with ``y[b, :, i, j] = (x_b * K[b, r])[:, i, j]``, ``r = argmax_r guide[b, r, i, j]``.

    It computes all R convolutions and selects, as the reference does: R times the multiply-adds of a static one. With
    ``groups > 1`` the kernels are grouped, the guide stays dense. The reference has no bias; ours is static.

    Args:
        regions: Regions R; the paper uses 8.
        shared_kernel: Add one static kernel to those of all regions; by default if the kernel is larger than 1x1.

    Shape:
        As ``nn.Conv2d``; ``coefficients`` are :class:`DRConvCoefficients`.

    Example:
        >>> DRConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        regions: int = 8,
        shared_kernel: bool | None = None,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        check_positive("regions", regions)
        dd = factory_kwargs(args, kwargs)
        self.regions = regions
        shared = self.kernel_size != (1, 1) if shared_kernel is None else shared_kernel
        self.shared_kernel = nn.Parameter(torch.empty(self.kernel_shape, **dd)) if shared else None
        self.bias = nn.Parameter(torch.empty(self.out_channels, **dd)) if self.has_bias else None
        self.branch = KernelGenerator(self.in_channels, regions, self.kernel_shape, **dd)
        # like ours, but for the groups; the input comes padded in modes other than zeros
        padding = self.padding if self.padding_mode == "zeros" else 0
        geometry = {"stride": self.stride, "padding": padding, "dilation": self.dilation}
        self.guide = Guide(self.in_channels, regions, self.kernel_size, geometry, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's own for the branches; the shared kernel and the bias are 0."""
        self.branch.reset_parameters()
        self.guide.reset_parameters()
        for parameter in (self.shared_kernel, self.bias):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def coefficients(self, x: Tensor) -> DRConvCoefficients:
        """Return the regions' kernels, the shared one included, and the guide map."""
        kernels = self.branch(x)
        if self.shared_kernel is not None:
            kernels = kernels + self.shared_kernel.to(kernels.dtype)
        padded, _ = self.convolution_arguments(x)
        return DRConvCoefficients(kernels, self.guide(padded))

    def forward(self, x: Tensor, coefficients: DRConvCoefficients | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]``."""
        kernels, guide = self.coefficients(x) if coefficients is None else coefficients
        x, geometry = self.convolution_arguments(x)
        # group-major, so that one convolution serves all regions
        stacked = kernels.unflatten(2, (self.groups, -1)).transpose(1, 2).flatten(1, 3)
        outputs = dynamic_conv2d(x, stacked.to(x.dtype), **geometry).unflatten(1, (self.groups, self.regions, -1))
        output = select_region(outputs.transpose(1, 2).flatten(2, 3), guide)
        return output if self.bias is None else output + self.bias.to(output.dtype)[:, None, None]

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start with the same kernel for every region and sample: Wg2 = 0, its bias or the shared kernel = W.

        Equal regions give the guide no gradient; they part at the first step, since each learns from its own positions.

        Raises:
            ValueError: If there is no shared kernel and the kernel is larger than 1x1.
        """
        if self.shared_kernel is None and self.kernel_size != (1, 1):
            raise ValueError(
                f"shared_kernel=False with kernel_size={self.kernel_size} cannot start from a given convolution: use "
                "shared_kernel=True or preserve_outputs=False"
            )
        nn.init.zeros_(self.branch.weight)
        if self.shared_kernel is None:
            self.branch.bias.copy_(weight.flatten().expand_as(self.branch.bias))
        else:
            self.shared_kernel.copy_(weight)
            nn.init.zeros_(self.branch.bias)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def _stored_kernels(self) -> Tensor:
        # without a shared kernel, a given weight is what the generator adds to each kernel
        return self.branch.bias if self.shared_kernel is None else self.shared_kernel

    def static_obstacle(self) -> str:
        """See the base class."""
        return "every position chooses a kernel of its own, which no single one replaces"

    def extra_repr(self) -> str:
        """Add the number of regions."""
        return f"{super().extra_repr()}, regions={self.regions}"


def select_region(outputs: Tensor, guide: Tensor) -> Tensor:
    """Choose one of R outputs at every position, with a straight-through gradient for the guide.

    Args:
        outputs: ``[B, R, C, H, W]``.
        guide: ``[B, R, H, W]``; ties go to the first maximum.

    Returns:
        ``[B, C, H, W]``. Backwards the outputs get the gradient of the hard choice, the guide that of
        ``sum_r softmax(guide)_r outputs_r``.
    """
    region = guide.argmax(1)[:, None]
    if is_exporting():  # what is gathered from is indexed by constants for one size
        chosen = outputs[:, 0]
        for index in range(1, outputs.shape[1]):
            chosen = torch.where(region == index, outputs[:, index], chosen)
    else:
        chosen = outputs.gather(1, region[:, None].expand(-1, 1, outputs.shape[2], -1, -1)).squeeze(1)
    # torch.jit.trace checks its graph with and without gradients: it has to be the same
    if not torch.is_grad_enabled() and not torch.jit.is_tracing():
        return chosen
    soft = torch.softmax(guide, 1)
    # zero in value; its gradient goes to the guide only
    zero = (soft - soft.detach()).to(outputs.dtype)
    return chosen + (zero[:, :, None] * outputs.detach()).sum(1)
