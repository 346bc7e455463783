"""A limit on the memory of a network that hyperparameters of any origin describe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: functions that allocate what their sizes say, before anything else can look at them
_FACTORIES = frozenset({torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros})
#: building needs the weights several times over (a static layer, then its dynamic one, random numbers for both)
_COPIES = 16
#: and some room for networks with hardly any weights: anchors, confusion matrices, images of zeros
_ROOM = 2**26


class LimitedMemory(TorchFunctionMode):
    """Refuses to allocate more than a multiple of a checkpoint's weights while its network is built.

    A checkpoint of a megabyte may ask for a convolution of 10^12 weights; building it would end the process (or the
    machine) before its weights are compared.

    Args:
        stored: Number of the checkpoint's weights.
        where: The checkpoint, for the message.
    """

    def __init__(self, stored: int, where: str) -> None:
        super().__init__()
        self.left = _ROOM + _COPIES * stored
        self.stored, self.where = stored, where

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count what factories are asked for.

        Raises:
            ValueError: If it is more than the limit.
        """
        kwargs = kwargs or {}
        if func in _FACTORIES:
            size = kwargs.get("size", args[0] if args and isinstance(args[0], list | tuple) else args)
            if all(isinstance(side, int) for side in size):
                self.left -= max(0, math.prod(size))
            if self.left < 0:
                raise ValueError(
                    f"{self.where}: its hyperparameters describe a network far larger than its {self.stored:,} weights"
                )
        return func(*args, **kwargs)
