"""Multiply-adds of DyNet's networks by arithmetic, split as the published tables have to be read.

The ICLR 2020 text counts convolutions and classifier only: its tables 4 to 6 give one number for every g_t and for the
fixed twin. The numbers of the arXiv text (2004.10694) for Dy-mobile, Dy-shuffle, Dy-ResNet18 and 50 are larger by 6, 4,
17 and 44, which is what branch and mixing of kernels add: 5.9, 4.0, 16.5 and 44.8. Neither text says so. Those of the
ResNets and of Dy-shuffle fit in units of 2**20 only, 4.9% more than a million (as does 1730 for the static ResNet-18,
which has 1814.1 million), those of the MobileNets in millions:

======================  ======================  ======  ======  ======  ============  ================
network                 convolutions, linear    branch  mixing  total   unit          published
======================  ======================  ======  ======  ======  ============  ================
dy_mobilenetv2                           129.4    2.98    2.90   135.3  million       129; 135
dy_mobilenetv3_small                      56.5    0.54    2.39    59.4  million       59
dy_mobilenetv3_large                     216.6    1.90    7.69   226.2  million       228
dy_shufflenetv2                           88.0    2.31    1.66    92.0  2**20         88; 92
dy_shufflenetv2_150                      169.1    5.32    3.74   178.2  2**20         171; -
dy_resnet18                              550.7    0.47   16.03   567.2  2**20         550; 567
dy_resnet50                             1075.1   11.25   33.57  1120.0  2**20         1075; 1119
======================  ======================  ======  ======  ======  ============  ================
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dyvision.layers import CoefficientBranch, DynamicConv2d, DyNetConv2d


class CostParts(NamedTuple):
    """Multiply-adds of one image.

    Attributes:
        convolutions: Convolutions and linear layers outside branches; a dynamic convolution counts as a static one.
        branch: Prediction of the coefficients.
        mixing: ``g_t * C_out * C_in/groups * kH * kW`` per dynamic convolution.
    """

    convolutions: int
    branch: int
    mixing: int


def cost_parts(model: nn.Module, size: int = 224) -> CostParts:
    """Count the multiply-adds of a network whose dynamic convolutions are DyNet's.

    The formulation that runs does not matter. Biases, normalisation, activations and pooling do not count; zeros of
    padding do.

    Args:
        model: A classifier or backbone; left as it is.
        size: Height and width of the image in pixels.

    Returns:
        The three parts; their sum is what the arXiv text counts.

    Raises:
        ValueError: If ``size`` is not positive, or the model has dynamic layers of other methods.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a positive int, not {size!r}")
    for name, module in model.named_modules():
        if isinstance(module, DynamicConv2d) and not isinstance(module, DyNetConv2d):
            raise ValueError(f"cost_parts counts DyNet's layers, but {name} is a {type(module).__name__}")
    # shapes are all it takes: nothing is computed, and the original keeps its hooks and its mode
    shadow = copy.deepcopy(model).to("meta").eval()
    in_branches = {
        id(module)
        for branch in shadow.modules()
        if isinstance(branch, CoefficientBranch)
        for module in branch.modules()
    }
    counts = {"convolutions": 0, "branch": 0, "mixing": 0}

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        part = "branch" if id(module) in in_branches else "convolutions"
        if isinstance(module, nn.Linear):
            counts[part] += output.numel() * module.in_features
            return
        if isinstance(module, DyNetConv2d):
            numbers = math.prod(module.kernel_shape)
            counts["mixing"] += module.num_kernels * numbers
        elif isinstance(module, nn.Conv2d):
            numbers = module.weight.numel()
        else:
            return
        counts[part] += numbers * math.prod(output.shape[2:])

    convs = []
    for module in shadow.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, DyNetConv2d)):
            module.register_forward_hook(count)
            convs += [module] if not isinstance(module, nn.Linear) else []
    if not convs:
        raise ValueError(f"{type(model).__name__} has no convolution")
    with torch.no_grad():
        # the parameters' type: a network in half precision takes images in half precision
        weight = convs[0].weight
        shadow(torch.empty(1, convs[0].in_channels, size, size, device="meta", dtype=weight.dtype))
    return CostParts(**counts)
