"""Keeping a backbone, or stages of it, as they are while what is new learns.

Coefficient branches are never frozen: pretrained weights have none, so nothing would ever make the kernels depend on
the input.
"""

from __future__ import annotations

from torch import nn

from dyvision.convert.freeze import free_norms, freeze, freeze_parameters

__all__ = ("freeze", "freeze_norm", "freeze_parameters")


def freeze_norm(backbone: nn.Module) -> None:
    """Put BatchNorm into evaluation mode, so that its running statistics stay, but not inside coefficient branches."""
    for norm in free_norms(backbone):
        norm.eval()
