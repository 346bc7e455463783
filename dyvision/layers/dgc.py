"""Dynamic group convolution: heads of the output, each of which sees its own choice of input channels.

Su et al., "Dynamic Group Convolution for Accelerating Convolutional Neural Networks", ECCV 2020, arXiv 2007.04242,
section 3. Official: ``zhuogege1943/dgc``, ``layers.py``. The code convolves head by head and shuffles the channels
afterwards; here output channel o belongs to head ``o % heads`` from the start, which is the same, and each sample's
kernel is the static one times its head's gates.

As in the code, gates that tie with the c-th smallest are dropped too. Unlike there, the number c belongs to the layer,
not to the class. Like the official code this computes dense convolutions: the published savings need a kernel that
skips the dropped channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import DynamicConv2d
from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._initialise import KERNEL_NOISE, start_like_conv2d
from dyvision.layers._registry import register_layer
from dyvision.layers._weight import StaticKernel
from dyvision.layers.arguments import (
    Conv2dArguments,
    DoesNotFitError,
    check_between,
    check_positive,
    check_share,
    factory_kwargs,
    largest_divisor,
)
from dyvision.layers.norm import GuardedBatchNorm2d, apply_norm
from dyvision.ops import dynamic_conv2d
from dyvision.ops.geometry import Size

#: below this number of input channels the squeeze rate is halved
FEW_CHANNELS = 80
#: of the official networks
HEADS = 4
#: dropping starts at the first of these points of the training and is complete at the second
PRUNING = (1 / 12, 3 / 4)


def gates_width(in_channels: int, squeeze_rate: int) -> int:
    """Width of a head's hidden layer: the rate is halved where there are few channels."""
    rate = max(squeeze_rate // 2, 1) if in_channels < FEW_CHANNELS else squeeze_rate
    return max(in_channels // rate, 1)


class SaliencyGates(CoefficientBranch):
    """Gates of the input channels, per head: ``s = ReLU(W2 ReLU(W1 GAP(x)) + b2)``.

    Args:
        in_channels: Channels of the input.
        heads: Number of heads.
        squeeze_rate: Reduction of the hidden layer, halved below 80 channels.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        heads: int,
        squeeze_rate: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.heads, hidden = heads, gates_width(in_channels, squeeze_rate)
        # the heads' hidden layers side by side
        self.fc1 = PreciseLinear(in_channels, heads * hidden, bias=False, initializer=nn.init.kaiming_normal_, **dd)
        self.weight = nn.Parameter(torch.empty(heads, in_channels, hidden, **dd))
        self.bias = nn.Parameter(torch.empty(heads, in_channels, **dd))

    def reset_parameters(self) -> None:
        """Kaiming-normal, bias 1: all gates start near 1."""
        self.fc1.reset_parameters()
        for weight in self.weight:
            nn.init.kaiming_normal_(weight)
        nn.init.ones_(self.bias)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, C_in]`` to ``[B, heads, C_in]``, not negative."""
        hidden = torch.relu(self.fc1(pooled)).unflatten(1, (self.heads, -1))
        gates = torch.einsum("bhj,hij->bhi", hidden, self.weight.to(hidden.dtype))
        return torch.relu(gates + self.bias.to(hidden.dtype))


@register_layer("dgc")
class DGConv2d(DynamicConv2d):
    """Convolution with ``W_b[o, i] = s[b, o % heads, i] W[o, i]``; the smallest gates of each head are zeroed.

    How many are zeroed follows the training: call ``set_progress`` once per step or epoch. With ``groups > 1`` the
    kernel is grouped and each output channel uses its head's gates of its own group. The official layer has no bias;
    ours is static. For the L1 term on the gates see :func:`record_gates`.

    Args:
        heads: Number of heads; must divide ``out_channels``. By default the official 4, or 2 or 1 where 4 does not.
        squeeze_rate: Reduction of the gates' hidden layer, halved below 80 input channels.
        gate_factor: Part of the input channels that stays at the end; 0.25 in CondenseNet, 0.45 in ResNet-18.
        pre_activation: Apply BatchNorm and ReLU to the input first, as the official layer does. By default the layer
            replaces the convolution alone.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, heads, C_in]``, zero where a channel is dropped.

    Example:
        >>> layer = DGConv2d(16, 32, 3, padding=1)
        >>> layer.set_progress(1.0)
        >>> int((layer.coefficients(torch.randn(1, 16, 9, 9)) > 0).sum(2).max())
        4
    """

    inactive_channels: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        heads: int | None = None,
        squeeze_rate: int = 16,
        gate_factor: float = 0.25,
        pre_activation: bool = False,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        heads = math.gcd(HEADS, self.out_channels) if heads is None else heads
        check_positive("heads", heads)
        check_positive("squeeze_rate", squeeze_rate)
        if self.out_channels % heads:
            message = f"heads must divide out_channels={self.out_channels}, got {heads}"
            raise DoesNotFitError(message, "heads", largest_divisor(heads, self.out_channels))
        check_between("gate_factor", gate_factor, 1)
        dd = factory_kwargs(args, kwargs)
        self.heads, self.gate_factor = heads, gate_factor
        self.norm = GuardedBatchNorm2d(self.in_channels, **dd) if pre_activation else None
        self.weight = nn.Parameter(torch.empty(self.kernel_shape, **dd))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **dd)) if self.has_bias else None
        self.branch = SaliencyGates(self.in_channels, heads, squeeze_rate, **dd)
        # a buffer: saved, and a compiled model is not compiled anew when it changes; not an integer, so that it can be
        # averaged like the weights
        self.register_buffer("inactive_channels", torch.zeros((), device=dd["device"]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise kernels and bias like ``nn.Conv2d``, gates near 1, none dropped."""
        self.inactive_channels.zero_()
        self.branch.reset_parameters()
        if self.norm is not None:
            self.norm.reset_parameters()
        start_like_conv2d(self.weight, self.bias)

    def set_progress(self, progress: float) -> None:
        """Set how many channels each head drops.

        Args:
            progress: Part of the training that is done. Nothing is dropped in the first twelfth; then the number grows
                linearly to ``round(C_in * (1 - gate_factor))`` at three quarters.

        Raises:
            ValueError: If it is not in [0, 1].
        """
        check_share("progress", progress)
        start, end = PRUNING
        part = min(max((progress - start) / (end - start), 0.0), 1.0)
        self.inactive_channels.fill_(round(self.in_channels * (1 - self.gate_factor) * part))

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the gates ``[B, heads, C_in]`` after dropping."""
        return self._drop(self.branch(self._activate(x)))

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]``."""
        x = self._activate(x)
        gates = self._drop(self.branch(x)) if coefficients is None else coefficients
        x, geometry = self.convolution_arguments(x)
        output = dynamic_conv2d(x, (self.weight * self._per_output(gates)[..., None, None]).to(x.dtype), **geometry)
        return output if self.bias is None else output + self.bias.to(output.dtype)[:, None, None]

    def static_kernel(self, coefficients: Tensor) -> StaticKernel:
        """See the base class."""
        return StaticKernel(self.weight * self._per_output(coefficients[0])[..., None, None], self.bias)

    def static_obstacle(self) -> str:
        """See the base class."""
        return "pre_activation=True puts a ReLU before it" if self.norm is not None else super().static_obstacle()

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start with W2 = 0, gates b2 around one and W divided by them, none dropped; the norm is not compensated.

        Gates of exactly one would tie and be dropped all at once. At the first step W1 has no gradient.
        """
        nn.init.zeros_(self.branch.weight)
        bias_of_gates = self.branch.bias
        bias_of_gates.copy_((1 + KERNEL_NOISE * torch.randn_like(bias_of_gates)).clamp(0.5, 1.5))
        self.inactive_channels.zero_()
        self.weight.copy_(weight / self._per_output(bias_of_gates)[..., None, None])
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def extra_repr(self) -> str:
        """Add the number of heads."""
        return f"{super().extra_repr()}, heads={self.heads}, gate_factor={self.gate_factor}"

    def _activate(self, x: Tensor) -> Tensor:
        return x if self.norm is None else torch.relu(apply_norm(self.norm, x))

    def _drop(self, gates: Tensor) -> Tensor:
        """Zero the smallest gates of each head and sample, and those that tie with the largest of them."""
        count = self.inactive_channels.round().long()
        largest = gates.detach().sort(-1).values.index_select(-1, (count - 1).clamp_min(0).view(1))
        return gates * ((gates > largest) | (count == 0)).to(gates.dtype)

    def _per_output(self, gates: Tensor) -> Tensor:
        """Spread ``[.., heads, C_in]`` over the kernel: ``[.., C_out, C_in/groups]``."""
        channel = torch.arange(self.out_channels, device=gates.device)
        place = channel % self.heads * self.groups + channel // (self.out_channels // self.groups)
        return gates.unflatten(-1, (self.groups, -1)).flatten(-3, -2).index_select(-2, place)


@contextmanager
def record_gates(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record the gates that the layers of a model predict inside the ``with`` block, before dropping.

    They carry gradients. The official loss adds ``1e-5 * sum(sparsity(gates) for gates in recorded)``.

    Args:
        model: A model with :class:`DGConv2d` layers.

    Yields:
        A list that grows by one tensor ``[B, heads, C_in]`` per layer and call.
    """
    recorded: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], gates: Tensor) -> None:
        recorded.append(gates)

    branches = [module for module in model.modules() if isinstance(module, SaliencyGates)]
    handles = [branch.register_forward_hook(record) for branch in branches]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def sparsity(gates: Tensor) -> Tensor:
    """L1 term of one layer: the mean of ``gates [B, heads, C_in]`` over samples and channels, summed over heads."""
    return gates.mean((0, 2)).sum()
