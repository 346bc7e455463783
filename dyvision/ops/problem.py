"""What the choice of a formulation depends on, and what is chosen."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dyvision.ops.geometry import Edges, Geometry, is_channels_last

#: 1x1 kernels; one input channel per output channel; larger kernels that see all channels, or their group's
KINDS = ("pointwise", "depthwise", "dense", "in groups")


class Plan(NamedTuple):
    """The names of the formulations of the two passes."""

    forward: str
    backward: str


class Problem(NamedTuple):
    """What the choice depends on.

    Attributes:
        batch: Samples B.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Height and width of the kernel.
        size: Height and width of the input.
        geometry: Stride, padding, dilation, groups.
        mixed: Number of kernels K that are mixed, 0 if the kernels are given.
        device: Type of the device.
        dtype: Type of the convolution.
        channels_last: Whether the input is in channels-last memory.
        training: Whether there will be a backward pass.
        linear: Whether outputs can be mixed instead of kernels.
        plain: Whether the tensors' memory may be read: they are ordinary ones, and nothing records operations.
    """

    batch: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    geometry: Geometry
    mixed: int
    device: str
    dtype: torch.dtype
    channels_last: bool
    training: bool
    linear: bool
    plain: bool = True

    # no property: the compiler of PyTorch 2.6 knows the methods of named tuples only
    def is_depthwise(self) -> bool:
        """Whether every output channel sees one input channel."""
        return self.geometry.groups == self.in_channels

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`: the formulations rank differently in each."""
        if self.is_depthwise() and self.geometry.groups > 1:
            return "depthwise"
        if self.kernel == (1, 1):
            return "pointwise"
        return "dense" if self.geometry.groups == 1 else "in groups"

    @property
    def output_pixels(self) -> int:
        """Height times width of the output."""
        height, width = self.geometry.output_size(self.size, self.kernel)
        return height * width


def describe_problem(
    input: Tensor,
    weight: Tensor,
    geometry: Geometry,
    mixed: int,
    training: bool,
    linear: bool = True,
    dtype: torch.dtype | None = None,
    edges: Edges | None = None,
    plain: bool = True,
) -> Problem:
    """Collect what the choice depends on, see :class:`Problem`.

    The type is the input's by default; ``edges`` are what the input is padded with before the convolution.
    """
    left, right, top, bottom = edges or (0, 0, 0, 0)
    return Problem(
        batch=input.shape[0],
        in_channels=input.shape[1],
        out_channels=weight.shape[1],
        kernel=(weight.shape[3], weight.shape[4]),
        size=(input.shape[2] + top + bottom, input.shape[3] + left + right),
        geometry=geometry,
        mixed=mixed,
        device=input.device.type,
        dtype=input.dtype if dtype is None else dtype,
        channels_last=is_channels_last(input),
        training=training,
        linear=linear,
        plain=plain,
    )
