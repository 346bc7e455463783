"""KernelWarehouse: kernels put together from small cells, which the layers of a stage share.

Li and Yao, "KernelWarehouse: Rethinking the Design of Dynamic Convolution", ICML 2024, arXiv 2406.07879: section 3.1
(kernel partition), 3.2 (warehouse) and 3.3 (attention, Eq. 3). Official: ``OSVAI/KernelWarehouse``,
``modules/kernel_warehouse.py``. A kernel is cut into m pieces; each is a mixture of the N cells of a warehouse and one
cell of zeros. Its coefficients are ``alpha = (1 - t) z / sum |z| + t E``: signed, with E one fixed cell per piece and t
falling from 1 to 0 in the first epochs (:meth:`KernelWarehouseConv2d.set_mixing`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import DynamicConv2d
from dyvision.layers._constants import WithConstants
from dyvision.layers._kernelwarehouse_branch import EPSILON, NORMS, SMALLEST, CellAttention
from dyvision.layers._registry import register_layer
from dyvision.layers._weight import StaticKernel
from dyvision.layers.arguments import Conv2dArguments, check_between, check_share, factory_kwargs
from dyvision.layers.warehouse import Warehouse, own_cells, side_of_cell
from dyvision.ops import dynamic_conv2d
from dyvision.ops.geometry import Size


@register_layer("kernelwarehouse")
class KernelWarehouseConv2d(WithConstants, DynamicConv2d):
    """Convolution whose kernel is put together from the cells of a warehouse; the bias is static.

    A layer is built with a warehouse of its own; ``share_warehouses`` gives several layers a common one, and
    ``dynamize`` calls it for the layers of a stage whose kernels have the same sizes.

    Args:
        cell_num_ratio: Cells over mixtures: the budget of parameters, 1/4 to 4 in the paper.
        cell_inplane_ratio: Input channels of a cell over ``C_in / groups`` (over their greatest common divisor if the
            warehouse is shared), in (0, 1].
        cell_outplane_ratio: The same of the output channels.
        reduction: Width of the attention's hidden layer over ``C_in``; it has at least 16.
        spatial_partition: Whether a cell covers one tap of the kernel, or all.
        nonlocal_basis_ratio: Below 1, the coefficients of other layers' cells come from a basis this much smaller.
        norm_layer: ``"batchnorm"`` or ``"layernorm"``, in the attention.
        mixing: Initial t; saved with the parameters (see ``set_mixing``). The default, 0, is for trained layers and
            trains as well; the paper starts from 1.

    Shape:
        As ``nn.Conv2d``; ``coefficients [B, m, N]``, signed.

    Example:
        >>> KernelWarehouseConv2d(16, 32, 3, padding=1, cell_num_ratio=0.5)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    shares_kernels = True
    # E, as the cell of each mixture; not saved, for it follows from the arguments and the order of the layers
    constants = ("cell_index",)

    branch: CellAttention
    warehouse: Warehouse
    mixing: Tensor
    cell_index: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        cell_num_ratio: float = 1.0,
        cell_inplane_ratio: float = 1.0,
        cell_outplane_ratio: float = 1.0,
        reduction: float = 0.0625,
        spatial_partition: bool = True,
        nonlocal_basis_ratio: float = 1.0,
        norm_layer: str = "batchnorm",
        mixing: float = 0.0,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        for name, value, largest in (
            ("cell_num_ratio", cell_num_ratio, math.inf),
            ("cell_inplane_ratio", cell_inplane_ratio, 1),
            ("cell_outplane_ratio", cell_outplane_ratio, 1),
            ("reduction", reduction, math.inf),
            ("nonlocal_basis_ratio", nonlocal_basis_ratio, 1),
        ):
            check_between(name, value, largest)
        check_share("mixing", mixing)
        if norm_layer not in NORMS:
            raise ValueError(f"norm_layer must be one of {', '.join(NORMS)}, got {norm_layer!r}")
        self.cell_num_ratio = cell_num_ratio
        self.cell_inplane_ratio, self.cell_outplane_ratio = cell_inplane_ratio, cell_outplane_ratio
        self.reduction, self.spatial_partition = reduction, spatial_partition
        self.nonlocal_basis_ratio, self.norm_layer = nonlocal_basis_ratio, norm_layer
        dd = factory_kwargs(args, kwargs)
        self.bias = nn.Parameter(torch.zeros(self.out_channels, **dd)) if self.has_bias else None
        # float32 whatever the parameters' type; a buffer, so that the schedule does not recompile a compiled model
        self.register_buffer("mixing", torch.zeros((), device=dd["device"]))
        self.initial_mixing = float(mixing)
        self.join(build_warehouse([self], **dd))

    @classmethod
    def share_kernels(cls, layers: Sequence[DynamicConv2d]) -> None:
        """Give layers a common warehouse; see the base class and :func:`share_warehouses`."""
        share_warehouses({"": [layer for layer in layers if isinstance(layer, cls)]})

    def join(self, warehouse: Warehouse, start: int | None = None) -> int:
        """Take the cells from a warehouse, with a new attention; ``share_warehouses`` calls this.

        Args:
            warehouse: Its cells have to divide the kernel.
            start: First of the layer's own cells, to which E points. None if no other layer joins: without cells of
                others there is no basis for them.

        Returns:
            One past the last of the layer's own cells, where those of the next layer start.
        """
        self.warehouse = warehouse.train(self.training)
        self.num_mixtures = count_pieces(self, warehouse.cell_shape)
        count, cells = self.num_mixtures, warehouse.num_cells
        _, end = own_cells(count, cells, self.cell_num_ratio, start or 0)
        device, dtype = warehouse.cells.device, warehouse.cells.dtype
        self.own_range = (start or 0, end)
        warehouse.assign(*self.own_range)
        own, basis = None, 0
        if start is not None and self.nonlocal_basis_ratio < 1:
            local = min(int(self.cell_num_ratio * count), cells - start)
            own, basis = (start, local), max(int((cells - local) * self.nonlocal_basis_ratio), SMALLEST)
        hidden = max(int(self.in_channels * self.reduction), SMALLEST)
        self.branch = CellAttention(
            self.in_channels, hidden, count, cells, self.norm_layer, own, basis, device=device, dtype=dtype
        ).train(self.training)
        self.reset_parameters()
        return end

    def reset_parameters(self) -> None:
        """The layer's own cells together and the attention kaiming-normal (fan out), the bias 0, t as at first."""
        self.warehouse.reset_cells(*self.own_range)
        indices, _ = own_cells(self.num_mixtures, self.warehouse.num_cells, self.cell_num_ratio, self.own_range[0])
        self.set_constant("cell_index", torch.tensor(indices, device="cpu"), self.warehouse.cells.device)
        self.set_mixing(self.initial_mixing)
        self.branch.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def set_mixing(self, value: float) -> None:
        """Set t: 1 is an ordinary convolution with the layer's own cells, 0 leaves all to the attention.

        Raises:
            ValueError: If it is not in [0, 1].
        """
        check_share("mixing", value)
        self.mixing.fill_(value)

    def coefficients(self, x: Tensor) -> Tensor:
        """Return ``(1 - t) z + t E``, ``[B, m, N]``."""
        attention = self.branch(x)[..., :-1]
        cells = torch.arange(self.warehouse.num_cells, device=attention.device)
        fixed = (self.cell_index.to(attention.device)[:, None] == cells).to(attention.dtype)
        mixing = self.mixing.to(attention.dtype)
        return (1 - mixing) * attention + mixing * fixed

    def forward(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]``."""
        kernel = self._assemble(self.warehouse(self.coefficients(x) if coefficients is None else coefficients))
        bias = None if self.bias is None else self.bias.expand(x.shape[0], -1)
        x, geometry = self.convolution_arguments(x)
        return dynamic_conv2d(x, kernel.to(x.dtype), bias, **geometry)

    def static_kernel(self, coefficients: Tensor) -> StaticKernel:
        """See the base class."""
        return StaticKernel(self._assemble(self.warehouse(coefficients))[0], self.bias)

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from the layer's own cells cut from W and logits E, for the present t.

        Other t change the kernel by a thousandth at most. As E is a learned bias here, training can leave it at t = 0.

        Raises:
            ValueError: If there are fewer cells than mixtures.
        """
        if self.cell_num_ratio < 1:
            raise ValueError(
                f"cell_num_ratio={self.cell_num_ratio!r}: fewer cells than pieces of the kernel cannot hold a given "
                "weight; choose a ratio of at least 1, or the method's own start (preserve_outputs=False)"
            )
        share = self.mixing + (1 - self.mixing) / (1 + EPSILON)
        pieces = self._cut(weight) / share.to(weight.dtype)
        index = self.cell_index.to(weight.device)
        self.warehouse.cells[index] = pieces.to(self.warehouse.cells.dtype)
        nn.init.zeros_(self.branch.fc2.weight)
        nn.init.zeros_(self.branch.logit_bias)
        self.branch.logit_bias.view(self.num_mixtures, -1).scatter_(1, index[:, None], 1.0)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def _stored_kernels(self) -> Tensor:
        return self.warehouse.cells  # frozen, if they are, for all layers of a warehouse

    def extra_repr(self) -> str:
        """Add the ratio."""
        return f"{super().extra_repr()}, cell_num_ratio={self.cell_num_ratio}"

    def _assemble(self, pieces: Tensor) -> Tensor:
        """``[B, m, cell]`` to ``[B, C_out, C_in/groups, kH, kW]``; m runs over taps, output blocks, input blocks."""
        out_size, in_size, *taps = self.warehouse.cell_shape
        out_channels, in_channels, height, width = self.kernel_shape
        blocks = (out_channels // out_size, in_channels // in_size)
        pieces = pieces.reshape(pieces.shape[0], -1, *blocks, out_size, in_size, math.prod(taps))
        return pieces.permute(0, 2, 4, 3, 5, 1, 6).reshape(-1, out_channels, in_channels, height, width)

    def _cut(self, weight: Tensor) -> Tensor:
        """The reverse of ``_assemble`` for one kernel: ``[m, cell]``."""
        out_size, in_size, *taps = self.warehouse.cell_shape
        weight = weight.reshape(-1, out_size, weight.shape[1] // in_size, in_size, weight[0, 0].numel(), 1)
        if taps != [1, 1]:  # a cell covers all taps
            weight = weight.transpose(4, 5)
        return weight.permute(4, 0, 2, 1, 3, 5).reshape(self.num_mixtures, -1)


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
        sides.append(side_of_cell(name, ratio, math.gcd(*(layer.kernel_shape[axis] for layer in layers))))
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
