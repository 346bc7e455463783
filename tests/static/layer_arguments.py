"""What a type checker, and so an editor, knows of the arguments of layers.

Not run, but checked by mypy: where an error is expected, and its comment says which, none would be an error as well.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from dyvision.layers import DCDConv2d, DyConv2d, DynamicConv2d, KernelWarehouseConv2d, ODConv2d, SEConv2d


class Own(DyConv2d):
    """A layer that hands on whatever it is given."""

    def __init__(self, *args: Any, name: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.name = name


def right(settings: dict[str, Any]) -> list[DynamicConv2d]:
    """As ``nn.Conv2d`` is called, with the method's own arguments."""
    make = partial(DyConv2d, num_kernels=4)
    return [
        DyConv2d(16, 32, 3),
        DyConv2d(16, 32, 3, 1, 1, 1, 1, True, "zeros", "cpu", torch.float64),
        ODConv2d(in_channels=16, out_channels=32, kernel_size=(3, 1), stride=2, padding="same", num_kernels=2),
        DCDConv2d(16, 32, 3, dilation=2, groups=2, bias=False, padding_mode="reflect", form="basic"),
        SEConv2d(16, 32, 3, device=torch.device("cpu"), dtype=None, reduction=4),
        KernelWarehouseConv2d(16, 32, 3, **settings),
        make(16, 32, 3, stride=2),
        Own(16, 32, 3, padding=1, num_kernels=2, name="own"),
        DyConv2d.from_conv(nn.Conv2d(16, 32, 3), num_kernels=2),
    ]


def wrong() -> None:
    """Wrong names, wrong types and missing sizes."""
    DyConv2d(16, 32, 3, strde=2)  # type: ignore[call-arg]
    DyConv2d(16, 32, 3, num_kernel=2)  # type: ignore[call-arg]
    DyConv2d(16, 32)  # type: ignore[call-arg]
    DyConv2d("16", 32, 3)  # type: ignore[arg-type]
    DCDConv2d(16, 32, 3, stride="2")  # type: ignore[arg-type]
    ODConv2d(16, 32, 3, num_kernels="2")  # type: ignore[arg-type]
    KernelWarehouseConv2d(16, 32, 3, bias=None)  # type: ignore[arg-type]
    partial(DyConv2d, num_kernels=4)(16, 32, 3, strde=2)  # type: ignore[call-arg]
