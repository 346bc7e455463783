"""The cells of KernelWarehouse, and which of them belong to whom."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyvision.layers.arguments import DoesNotFitError, largest_divisor
from dyvision.ops.kernels import mix_kernels


class Warehouse(nn.Module):
    """The cells of one or several layers.

    Args:
        num_cells: Number of cells N, the cell of zeros not counted.
        cell_shape: ``(o, i, kH, kW)``.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        num_cells: int,
        cell_shape: tuple[int, int, int, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_cells, self.cell_shape = num_cells, cell_shape
        #: first and end of the cells of each layer
        self.assigned: list[tuple[int, int]] = []
        # one row per cell: the mixture is a matrix product, and channels_last has nothing to permute
        self.cells = nn.Parameter(torch.empty(num_cells, math.prod(cell_shape), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal (fan out): the cells of each layer as one kernel, and those of none together as one."""
        self.reset_cells(0, self.num_cells)
        for start, end in self.assigned:
            self.reset_cells(start, end)

    def assign(self, start: int, end: int) -> None:
        """Note that the cells from ``start`` to before ``end`` belong to one layer."""
        self.assigned.append((start, end))

    def reset_cells(self, start: int, end: int) -> None:
        """Initialise the cells from ``start`` to before ``end`` as one kernel."""
        out_channels, _, height, width = self.cell_shape
        std = math.sqrt(2 / max((end - start) * out_channels * height * width, 1))
        with torch.no_grad():
            self.cells[start:end].normal_(std=std)

    def forward(self, coefficients: Tensor) -> Tensor:
        """Mix cells by ``[B, m, N]`` to ``[B, m, o * i * kH * kW]``, in the precision of the coefficients."""
        mixed = mix_kernels(self.cells[:, :, None, None, None], coefficients.flatten(0, 1))
        return mixed.view(*coefficients.shape[:2], -1)

    def extra_repr(self) -> str:
        """Number and shape of the cells."""
        return f"num_cells={self.num_cells}, cell_shape={self.cell_shape}"


def warehouse_of(name: str, sharing_range: Sequence[str]) -> str:
    """Name of a layer's warehouse: parts of the layer's name that start with an entry of the range are cut to it.

    Args:
        name: ``"stage0_layer1_conv0"``.
        sharing_range: What is shared: ``("layer", "conv")`` gives all layers of a stage one warehouse.

    Example:
        >>> warehouse_of("stage0_layer1_conv0", ("layer", "conv"))
        'stage0_layer_conv'
    """
    parts = name.split("_")
    for entry in sharing_range:
        parts = [entry if part.startswith(entry) else part for part in parts]
    return "_".join(parts)


def side_of_cell(name: str, ratio: float, channels: int) -> int:
    """Channels of a cell, ``ratio`` times those of the kernel.

    Args:
        name: Of the argument that the ratio is.
        ratio: In (0, 1].
        channels: Of the kernel, or what those of several have in common.

    Raises:
        DoesNotFitError: If they do not divide ``channels``.
    """
    size = max(int(channels * ratio), 1)
    if channels % size:
        part = largest_divisor(size, channels)
        # the ratio that gives this part: the product is rounded down
        fits = part / channels if int(channels * (part / channels)) == part else math.nextafter(part / channels, 1)
        raise DoesNotFitError(
            f"{name}={ratio!r} of {channels} channels is {size}, which has to divide them", name, fits
        )
    return size


def own_cells(num_mixtures: int, num_cells: int, ratio: float, start: int) -> tuple[list[int], int]:
    """E: the cell of each mixture (``num_cells`` is the cell of zeros), and where the next layer's cells start."""
    if ratio >= 1:
        step = int(ratio)
        return [start + step * number for number in range(num_mixtures)], start + step * num_mixtures
    period, indices = int(1 / ratio), []
    for number in range(num_mixtures):
        # each period of mixtures one cell, at a place that moves on
        takes = number % period == (number // period) % period and start < num_cells
        indices.append(start if takes else num_cells)
        start += takes
    return indices, start
