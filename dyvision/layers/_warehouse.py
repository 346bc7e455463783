"""The cells of KernelWarehouse, and how the kernels of several layers are cut into them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dyvision.ops.mixing import mix_kernels

if TYPE_CHECKING:
    from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d


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


def count_pieces(layer: KernelWarehouseConv2d, cell_shape: Sequence[int]) -> int:
    """Number of cells that a layer's kernel is cut into."""
    return math.prod(size // part for size, part in zip(layer.kernel_shape, cell_shape, strict=True))


def build_warehouse(
    layers: Sequence[KernelWarehouseConv2d],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Warehouse:
    """Build the warehouse that several layers can share; they do not join it.

    Raises:
        ValueError: If the layers disagree in their ratios, or cells of that size do not divide their kernels.
    """
    first = layers[0]
    for name in ("cell_num_ratio", "cell_inplane_ratio", "cell_outplane_ratio", "spatial_partition"):
        values = {getattr(layer, name) for layer in layers}
        if len(values) > 1:
            raise ValueError(f"{name} must be the same for all layers of a warehouse, got {sorted(values)}")
    taps = (1, 1)
    if not first.spatial_partition:
        taps = first.kernel_size
        if any(layer.kernel_size != taps for layer in layers):
            sizes = sorted({layer.kernel_size for layer in layers})
            raise ValueError(f"kernel_size must be the same for all layers without spatial_partition, got {sizes}")
    sides = []
    for name, axis, ratio in (
        ("cell_outplane_ratio", 0, first.cell_outplane_ratio),
        ("cell_inplane_ratio", 1, first.cell_inplane_ratio),
    ):
        common = math.gcd(*(layer.kernel_shape[axis] for layer in layers))
        size = max(int(common * ratio), 1)
        if common % size:
            raise ValueError(f"{name}={ratio!r} of {common} channels is {size}, which has to divide them")
        sides.append(size)
    shape = (sides[0], sides[1], *taps)
    mixtures = sum(count_pieces(layer, shape) for layer in layers)
    return Warehouse(max(int(first.cell_num_ratio * mixtures), 1), shape, device=device, dtype=dtype)


def share_warehouses(groups: Mapping[str, Sequence[KernelWarehouseConv2d]]) -> dict[str, Warehouse]:
    """Give each group of layers a common warehouse, in place of their own; cells and attentions are initialised anew.

    Do this before loading weights (``load_state_dict``, ``load_static``) and before building an optimiser.

    Args:
        groups: Layers by the name of their warehouse, in the order in which the network calls them.

    Returns:
        The warehouses by name.

    Raises:
        ValueError: If a group is empty or its layers cannot share.
    """
    warehouses = {}
    for name, layers in groups.items():
        if not layers:
            raise ValueError(f"groups: {name!r} has no layers")
        cells = layers[0].warehouse.cells
        warehouse = build_warehouse(layers, device=cells.device, dtype=cells.dtype)
        # One module, a child of every layer: PyTorch's own way to share. Parameters are listed once (optimisers, DDP),
        # deepcopy and .to() keep the identity, and a layer stays whole when it is taken out of the network. A reference
        # outside the module tree would lose that. The state dict has the cells under each layer's name, as one storage.
        start = 0
        for layer in layers:
            start = layer.join(warehouse, start)
        warehouses[name] = warehouse
    return warehouses
