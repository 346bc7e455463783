"""Modules that know their own initial values: ``reset_parameters()`` without arguments is the method's, not PyTorch's.

After ``module.to_empty(device=...)`` (meta device, FSDP) PyTorch's contract is that ``reset_parameters()`` of every
module initialises the module's own parameters and buffers. Parents come before children, so that what a layer gave
its linear layers would be overwritten by their default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

#: sets a weight in place; a function of a module or a ``partial`` of one, so that layers can be pickled
Initializer = Callable[[Tensor], object]

#: spread of the K kernels around the static one, in standard deviations of its weights
KERNEL_NOISE = 0.1

#: kaiming-normal for the number of outputs, the start of most official branches
FAN_OUT: Initializer = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
#: the kernel of ``nn.Conv2d``
LIKE_CONV2D: Initializer = partial(nn.init.kaiming_uniform_, a=math.sqrt(5))


class _Initialised(nn.Module):
    """Mixin: the weight by ``initializer``, the bias 0; without one PyTorch's own."""

    #: sets the weight
    initializer: Initializer | None = None

    def __init__(self, *args: Any, initializer: Initializer | None = None, **kwargs: Any) -> None:
        self.initializer = initializer  # before the base, whose constructor resets
        super().__init__(*args, **kwargs)

    def reset_parameters(self) -> None:
        """Initialise the weight by ``initializer`` and the bias by 0."""
        if self.initializer is None:
            cast(Any, super()).reset_parameters()
            return
        weight, bias = cast(Tensor, self.weight), cast("Tensor | None", self.bias)
        if weight.numel():
            self.initializer(weight)
        if bias is not None:
            nn.init.zeros_(bias)


class InitialisedLinear(_Initialised, nn.Linear):
    """``nn.Linear`` with an initialisation of its own."""


class InitialisedConv1d(_Initialised, nn.Conv1d):
    """``nn.Conv1d`` with an initialisation of its own."""


class InitialisedConv2d(_Initialised, nn.Conv2d):
    """``nn.Conv2d`` with an initialisation of its own."""


def by_outputs(weight: Tensor) -> None:
    """Set ``weight [O, I, kH, kW]`` to N(0, sqrt(2 / (kH kW O))), as DCD's official code does."""
    nn.init.normal_(weight, std=math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3])))


def start_like_conv2d(weight: Tensor, bias: Tensor | None) -> None:
    """Set a kernel ``[C_out, C_in/groups, kH, kW]``, or each of a stack of them, and the bias as ``nn.Conv2d`` does."""
    for kernel in weight if weight.ndim == 5 else (weight,):
        LIKE_CONV2D(kernel)
    start_bias_like_conv2d(bias, math.prod(weight.shape[-3:]))


def start_bias_like_conv2d(bias: Tensor | None, fan_in: int) -> None:
    """Set the bias of a convolution, each of whose outputs sums up ``fan_in`` products, as ``nn.Conv2d`` does."""
    if bias is not None:
        nn.init.uniform_(bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


def reset_children(module: nn.Module) -> None:
    """Call ``reset_parameters()`` of every module inside another, as is done after ``to_empty``."""
    for child in module.modules():
        if child is not module and callable(getattr(child, "reset_parameters", None)):
            cast(Any, child).reset_parameters()


def spread_kernels(weight: Tensor, count: int) -> Tensor:
    """Return ``count`` copies of a weight plus noise that sums to zero over the copies, ``[count, *weight.shape]``.

    Equal kernels would get equal gradients for ever; the noise lets them part without changing their mean.
    """
    spread = weight.std(correction=0)
    # a kernel of zeros would stay one under noise in proportion to it
    spread = torch.where(spread > 0, spread, 1 / math.sqrt(weight[0].numel()))
    noise = torch.randn(count, *weight.shape, device=weight.device, dtype=weight.dtype) * (KERNEL_NOISE * spread)
    return weight + noise - noise.mean(0)
