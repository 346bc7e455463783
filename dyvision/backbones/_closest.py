"""Which known network a file of weights is of, by the shapes of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import timm
import torch
from torch import Tensor

from dyvision.backbones.registry import TIMM_NAMES

#: of so many of its kernels another network has the same
_ALIKE = 0.95


def closest_network(state: Mapping[str, Tensor]) -> str | None:
    """The name of the network whose kernels have the shapes of those in a state dict.

    Names do not count, nor do linear layers, so that other implementations and numbers of classes are recognised.

    Args:
        state: Tensors by name.

    Returns:
        One of the networks that ``list_backbones`` shows of timm's, or None if it is none of these.
    """
    given = _kernels(state)
    shares: dict[str, float] = {}
    for name in TIMM_NAMES:
        if timm.is_model(name):
            with torch.device("meta"):
                own = _kernels(timm.create_model(name).state_dict())
            shares[name] = (own & given).total() / max((own | given).total(), 1)
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best is not None and shares[best] >= _ALIKE else None


def _kernels(state: Mapping[str, Tensor]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tensor.shape) for tensor in state.values() if tensor.ndim == 4)
