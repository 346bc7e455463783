"""What the branches of heads with one stage are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with eight channels per group, as torchvision's 32 groups of 256 channels.

    Not 32 groups at any width: a group of one channel would have nothing to normalise on a 1 x 1 map.
    """
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


def conv_branch(channels: int, num_convs: int, norm: Callable[..., nn.Module] | None) -> nn.Sequential:
    """3x3 convolutions, each with its norm and ReLU."""
    layers = [Conv2dNormActivation(channels, channels, norm_layer=norm) for _ in range(num_convs)]
    for module in nn.Sequential(*layers).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return nn.Sequential(*layers)


def set_prior(layer: nn.Conv2d, prior: float) -> None:
    """Set the bias of a layer of class scores such that every score is ``prior`` at first.

    Raises:
        ValueError: If that is no probability.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior_probability={prior}: expected a number between 0 and 1.")
    nn.init.constant_(cast(Tensor, layer.bias), -math.log((1 - prior) / prior))


def check_convs(num_convs: int) -> None:
    """Check the number of convolutions of a branch.

    Raises:
        ValueError: If it is negative.
    """
    if num_convs < 0:
        raise ValueError(f"num_convs={num_convs}: expected 0 or more.")


def as_weights(x: list[Tensor], module: nn.Module) -> list[Tensor]:
    """Cast maps to the weights' dtype: nothing to do in float32 and under autocast, needed for bfloat16 models."""
    dtype = next(module.parameters()).dtype
    return [level.to(dtype) for level in x]


def in_float32(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs as boxes are decoded from them, under autocast, too."""
    return {name: output.to(torch.float32) for name, output in outputs.items()}
