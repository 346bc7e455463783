"""BatchNorm in heads that survives one value per channel: image pooling in ASPP and PSP at batch size 1."""

from __future__ import annotations

from torch import nn

from dyvision.layers import GuardedBatchNorm2d


def guard_batch_norms(module: nn.Module) -> nn.Module:
    """Give every plain ``BatchNorm2d`` of a head the guard, in place; parameters and names stay the same.

    DeepLab and PSPNet normalise globally pooled features ``[B, C, 1, 1]``. With one image per process PyTorch raises
    "Expected more than 1 value per channel when training"; guarded, that batch is normalised as in evaluation.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = GuardedBatchNorm2d
    return module
