"""DyConv: kernels mixed by a softmax attention with a temperature.

Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020, arXiv 1912.03458, Eq. 2, section 3.
Reference: ``kaijieshi7/Dynamic-convolution-Pytorch``, ``dynamic_conv.py``. The paper anneals the temperature from 30 to
1 over the first ten epochs; ``dyvision.tasks.callbacks.TemperatureAnnealing`` does that.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._initialise import FAN_OUT, reset_children
from dyvision.layers._registry import register_layer
from dyvision.layers.arguments import Conv2dArguments, check_between, check_positive, factory_kwargs
from dyvision.layers.mixture import MixtureConv2d
from dyvision.layers.tempered import Tempered
from dyvision.ops.geometry import Size
from dyvision.ops.native import Gates


class DyConvAttention(CoefficientBranch):
    """Attention ``softmax((W2 ReLU(W1 GAP(x)) + b2) / T)`` over the kernels.

    Args:
        in_channels: Channels of the input.
        num_kernels: Kernels K.
        ratio: Width of the hidden layer: ``int(in_channels * ratio) + 1`` (K if ``in_channels`` is 3).
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        num_kernels: int,
        ratio: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = num_kernels if in_channels == 3 else int(in_channels * ratio) + 1
        start: dict[str, Any] = {"initializer": FAN_OUT, "device": device, "dtype": dtype}
        self.fc1 = PreciseLinear(in_channels, hidden, bias=False, **start)
        self.fc2 = PreciseLinear(hidden, num_kernels, **start)

    def reset_parameters(self) -> None:
        """Kaiming-normal (fan out), bias 0."""
        reset_children(self)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, C]`` to logits ``[B, K]``; the layer divides them by its temperature."""
        return self.fc2(torch.relu(self.fc1(pooled)))

    def perceptron(self) -> tuple[PreciseLinear, PreciseLinear]:
        """See the base class."""
        return self.fc1, self.fc2


@register_layer("dyconv")
class DyConv2d(Tempered, MixtureConv2d):
    """Convolution with ``W_b = sum_k pi[b, k] W_k``, ``pi = softmax(logits / T)``, biases mixed alike.

    Args:
        num_kernels: Kernels K; the paper uses 4.
        bank: ``"full"`` for K whole kernels, ``"tucker"`` for a factorised bank, ``U_out G_k U_in``: two 1x1
            convolutions around cores G_k, of which the K are mixed. Depthwise layers keep whole kernels.
        rank: Of a factorised bank: a share of the channels, a float in (0, 1], by default 0.5, or the rank itself, an
            int.
        ratio: Width of the attention's hidden layer over ``in_channels``.
        temperature: Initial T; saved with the parameters (see ``set_temperature``).

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, K]``, each row sums to one.

    Example:
        >>> DyConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    sums_to_one = True
    branch_type = DyConvAttention

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        num_kernels: int = 4,
        bank: str = "full",
        rank: float | None = None,
        ratio: float = 0.25,
        temperature: float = 1.0,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        check_positive("num_kernels", num_kernels)
        check_between("ratio", ratio, math.inf)
        dd = factory_kwargs(args, kwargs)
        self.branch = DyConvAttention(self.in_channels, num_kernels, ratio, **dd)
        self.make_bank(num_kernels, bank, rank, **dd)
        self.bias = nn.Parameter(torch.empty(num_kernels, self.out_channels, **dd)) if self.has_bias else None
        self.keep_temperature(temperature, dd["device"])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each kernel kaiming-uniform (a=0), biases 0; T as at first."""
        self.set_temperature(self.initial_temperature)
        self.branch.reset_parameters()
        self.reset_bank(nn.init.kaiming_uniform_)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the attention ``[B, K]``; rows sum to one."""
        logits = self.branch(x)
        if not self.fused:
            logits = logits / self.temperature.to(logits.dtype)
        return torch.softmax(logits, 1)

    def gates(self) -> Gates | None:
        """See the base class."""
        return Gates(kernel=self.num_kernels) if self.fused else None

    def fuse_branch(self) -> None:
        """Fold the temperature into the branch's second layer."""
        for parameter in (self.branch.fc2.weight, self.branch.fc2.bias):
            parameter.div_(self.temperature.to(parameter.dtype))

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from ``W_k = W`` plus noise that sums to zero, under equal attention."""
        self.start_bank(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias.expand_as(self.bias))
        nn.init.zeros_(self.branch.fc2.weight)
