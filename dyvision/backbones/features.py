"""From a classifier to a backbone: a list of feature maps, and nothing in the network that they do not need."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from timm.models import FeatureInfo
from torch import nn


class Backbone(nn.Module):
    """A network that returns feature maps of several resolutions.

    Everything behind the last level asked for is removed, so that every parameter receives a gradient
    (``DistributedDataParallel`` needs no ``find_unused_parameters``). What remains has the names it has in the
    classifier, behind the prefix ``body.``.

    Args:
        body: A classifier with timm's feature contract: ``feature_info`` (list of dicts), ``forward_intermediates`` and
            ``prune_intermediate_layers``. It is changed in place.
        out_indices: Levels to return, in this order; negative ones count from the end, an int means the last so many
            levels (as in timm), None all levels with a reduction of at least 4, ``"all"`` all of them.
        name: What to call the network in messages.

    Attributes:
        body: The network.
        feature_info: timm's ``FeatureInfo``: ``channels()`` and ``reduction()`` list one entry per returned map.
        out_indices: Levels returned, counted from 0.

    Shape:
        ``[B, C, H, W]`` to a list of ``[B, C_i, H / r_i, W / r_i]`` (rounded up), with ``C_i`` and ``r_i`` as in
        ``feature_info``.

    Raises:
        ValueError: If a level does not exist, or the network does not offer feature maps.
    """

    def __init__(
        self, body: nn.Module, out_indices: int | Sequence[int] | str | None = None, name: str | None = None
    ) -> None:
        super().__init__()
        name = name or type(body).__name__
        info = getattr(body, "feature_info", None)
        if not info or not hasattr(body, "forward_intermediates") or not hasattr(body, "prune_intermediate_layers"):
            raise ValueError(
                f"{name} gives no feature maps (it lacks timm's forward_intermediates); use another network"
            )
        levels: list[dict[str, Any]] = deepcopy(list(getattr(info, "info", info)))
        self.out_indices = resolve_out_indices(out_indices, [level["reduction"] for level in levels], name)
        self.feature_info = FeatureInfo(levels, self.out_indices)
        # forward_intermediates returns maps by depth, whatever the order asked for
        self._levels = sorted(set(self.out_indices))
        complete = set(body.state_dict())
        body.prune_intermediate_layers(self._levels, prune_norm=True, prune_head=True)  # type: ignore[operator]
        self._pruned = frozenset(complete - set(body.state_dict()))
        self.body = body

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of ``x``, one per entry of ``out_indices``."""
        maps = self.body.forward_intermediates(x, indices=self._levels, intermediates_only=True)  # type: ignore[operator]
        return [maps[self._levels.index(level)] for level in self.out_indices]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them (where the network supports it)."""
        self.body.set_grad_checkpointing(enable)  # type: ignore[operator]

    def extra_repr(self) -> str:
        """Levels, channels and reductions, shown by ``print``."""
        info = self.feature_info
        return f"out_indices={self.out_indices}, channels={info.channels()}, reduction={info.reduction()}"


def resolve_out_indices(
    out_indices: int | Sequence[int] | str | None, reductions: Sequence[int], name: str
) -> tuple[int, ...]:
    """Levels counted from 0.

    Args:
        out_indices: As for :class:`Backbone`.
        reductions: Stride of every level that exists, finest first.
        name: Name of the network, for the message.

    Raises:
        ValueError: If a level does not exist or none is asked for; the message says which exist.
    """
    count = len(reductions)
    exist = f"{name} has {count} levels, 0 to {count - 1} (or -{count} to -1), with reductions {list(reductions)}"
    if out_indices is None:
        return tuple(level for level, reduction in enumerate(reductions) if reduction >= 4)
    if out_indices == "all":
        return tuple(range(count))
    if isinstance(out_indices, int) and not isinstance(out_indices, bool):
        if not 0 < out_indices <= count:
            raise ValueError(f"out_indices={out_indices} (an int asks for the last so many levels): {exist}")
        return tuple(range(count - out_indices, count))
    try:
        asked = [level.__index__() for level in out_indices]  # type: ignore[union-attr]
    except (AttributeError, TypeError):
        raise ValueError(f"out_indices must be None, 'all' or integers, not {out_indices!r}: {exist}") from None
    wrong = [level for level in asked if not -count <= level < count]
    if wrong or not asked:
        what = f"there is no level {', '.join(map(str, wrong))}" if wrong else "at least one level is needed"
        raise ValueError(f"out_indices={tuple(asked)}: {what}; {exist}")
    return tuple(level % count for level in asked)
