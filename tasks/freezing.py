"""Keeping a backbone as it is while what is new learns.

Coefficient branches are never frozen: pretrained weights have none, so nothing would ever make the kernels depend on
the input.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from dyvision.layers import CoefficientBranch

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def freeze_norm(backbone: nn.Module) -> None:
    """Put BatchNorm into evaluation mode, so that its running statistics stay, but not inside coefficient branches."""
    free = {id(module) for branch in _branches(backbone) for module in branch.modules()}
    for module in backbone.modules():
        if isinstance(module, _BATCH_NORMS) and id(module) not in free:
            module.eval()


def freeze_parameters(backbone: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Stop training those of ``parameters`` that no coefficient branch of ``backbone`` has."""
    free = {id(parameter) for branch in _branches(backbone) for parameter in branch.parameters()}
    for parameter in parameters:
        if id(parameter) not in free:
            parameter.requires_grad_(False)


def _branches(backbone: nn.Module) -> list[nn.Module]:
    return [module for module in backbone.modules() if isinstance(module, CoefficientBranch)]
