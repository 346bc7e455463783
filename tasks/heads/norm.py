"""BatchNorm that survives one value per channel: image pooling in ASPP and PSP at batch size 1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GuardedBatchNorm2d(nn.BatchNorm2d):
    """``BatchNorm2d`` that uses its running statistics where a batch has no variance.

    DeepLab and PSPNet normalise globally pooled features ``[B, C, 1, 1]``. With one image per process PyTorch raises
    "Expected more than 1 value per channel when training"; here that batch is normalised as in evaluation, and the
    running statistics stay as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        if self.training and self.running_mean is not None and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def guard_batch_norms(module: nn.Module) -> nn.Module:
    """Give every plain ``BatchNorm2d`` of a head the guard, in place; parameters and names stay the same."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = GuardedBatchNorm2d
    return module
