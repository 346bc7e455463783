"""Networks as after a training: norms with statistics that folding could get wrong."""

from __future__ import annotations

import torch
from torch import nn


def settle(model: nn.Module) -> nn.Module:
    """Running statistics, scales and shifts that folding could get wrong."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()
