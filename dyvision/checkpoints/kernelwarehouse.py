"""Official KernelWarehouse layers (``OSVAI/KernelWarehouse``, ``modules/kernel_warehouse.py``) as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.layers._warehouse import share_warehouses, warehouse_of
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d

#: the official manager's arguments and their defaults, without ``sharing_range``
MANAGER_DEFAULTS: dict[str, Any] = {
    "reduction": 0.0625,
    "cell_num_ratio": 1,
    "cell_inplane_ratio": 1,
    "cell_outplane_ratio": 1,
    "nonlocal_basis_ratio": 1,
    "norm_layer": "BatchNorm1d",
    "spatial_partition": True,
}
_NORMS = {"BatchNorm1d": "batchnorm", "LayerNorm": "layernorm"}
_NOT_OF_THE_CONVOLUTION = ("in_planes", "out_planes", "warehouse_name", "enabled", "layer_type")


class WarehouseNetwork(nn.Module):
    """Convolution, BatchNorm2d and ReLU in order, without the last ReLU, from shared warehouses.

    Args:
        convs: The layers; ordinary convolutions may be among them.
        names: The warehouse of each.
    """

    def __init__(self, convs: Sequence[KernelWarehouseConv2d | nn.Conv2d], names: Sequence[str]) -> None:
        super().__init__()
        groups: dict[str, list[KernelWarehouseConv2d]] = {}
        for conv, name in zip(convs, names, strict=True):
            if isinstance(conv, KernelWarehouseConv2d):
                groups.setdefault(name, []).append(conv)
        # registered first: parameters carry these names, in the official order
        self.warehouses = nn.ModuleList(share_warehouses(groups).values())
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in convs)
        self.register_load_state_dict_pre_hook(_complete)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` through all layers."""
        last = len(self.convs) - 1
        for number, (conv, norm) in enumerate(zip(self.convs, self.bns, strict=True)):
            x = norm(conv(x))
            if number < last:
                x = torch.relu(x)
        return x


def _complete(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add what an official state has once or not at all: each layer's name for its cells, and t."""
    places = {id(module): name for name, module in network.get_submodule("warehouses").named_children()}
    for name, conv in network.get_submodule("convs").named_children():
        if isinstance(conv, KernelWarehouseConv2d):
            cells = f"{prefix}warehouses.{places[id(conv.warehouse)]}.cells"
            if cells in state:
                state.setdefault(f"{prefix}convs.{name}.warehouse.cells", state[cells])
            state.setdefault(f"{prefix}convs.{name}.mixing", conv.mixing)


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build a network of layers that share warehouses.

    Args:
        official_class: ``"Warehouse_Manager + KWConv2d"``.
        arguments: ``manager``: the manager's arguments, of which some may be lists with an entry per warehouse;
            ``convs``: the arguments of its ``reserve`` calls, in order.
        state: ``temp_value``: t.

    Raises:
        ValueError: For another class, or what it cannot do.
    """
    if official_class not in ("Warehouse_Manager + KWConv2d", "Warehouse_Manager"):
        raise ValueError(f"official_class must be 'Warehouse_Manager + KWConv2d', got {official_class!r}")
    manager = {**MANAGER_DEFAULTS, **arguments.get("manager", {})}
    sharing_range = manager.pop("sharing_range", None) or ()
    if isinstance(sharing_range, str):  # as in the official configs: "layer_conv"
        sharing_range = sharing_range.split("_")
    norm = str(manager["norm_layer"]).rsplit(".", 1)[-1].strip("'>")
    if norm not in _NORMS:
        raise ValueError(f"norm_layer must be one of {', '.join(_NORMS)}, got {norm!r}")
    manager["norm_layer"] = _NORMS[norm]
    names = [warehouse_of(conv.get("warehouse_name", "default"), sharing_range) for conv in arguments["convs"]]
    dynamic = [name for name, conv in zip(names, arguments["convs"], strict=True) if conv.get("enabled", True)]
    order = list(dict.fromkeys(dynamic))
    convs: list[KernelWarehouseConv2d | nn.Conv2d] = []
    for name, reserved in zip(names, arguments["convs"], strict=True):
        options = {key: value for key, value in reserved.items() if key not in _NOT_OF_THE_CONVOLUTION}
        if reserved.get("layer_type", "conv2d") != "conv2d":
            raise ValueError(f"layer_type must be 'conv2d', got {reserved['layer_type']!r}")
        options = {"kernel_size": 1, **options}
        channels = (reserved["in_planes"], reserved["out_planes"])
        if name in order and reserved.get("enabled", True):
            place = order.index(name)
            own = {key: value[place % len(value)] if _is_list(value) else value for key, value in manager.items()}
            mixing = state.get("temp_value", 0.0)
            convs.append(KernelWarehouseConv2d(*channels, mixing=mixing, **options, **own))
        else:
            convs.append(nn.Conv2d(*channels, **options))
    return WarehouseNetwork(convs, names)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names of a layer or a network; cells lose their singleton axes."""
    translated = {}
    for name, tensor in state.items():
        warehouse = re.fullmatch(r"(?:warehouse_manager\.)?weights\.(\d+)", name)
        if warehouse:
            translated[f"warehouses.{warehouse[1]}.cells"] = tensor.flatten(1)
            continue
        name = re.sub(r"(^|\.)attention\.norm1\.", r"\1branch.norm.", name)
        translated[re.sub(r"(^|\.)attention\.", r"\1branch.", name)] = tensor
    return translated


def apply_auxiliary(layer: nn.Module, auxiliary: Mapping[str, Tensor]) -> None:
    """Set E from the official ``convs[i].attention.temp_bias``, one-hot over the cells and the cell of zeros."""
    for name, tensor in auxiliary.items():
        place = re.fullmatch(r"convs\[(\d+)\]\.attention\.temp_bias", name)
        if place:
            conv = layer.get_submodule(f"convs.{place[1]}")
            if not isinstance(conv, KernelWarehouseConv2d):
                raise TypeError(f"convs.{place[1]} is a {type(conv).__name__}, not a KernelWarehouseConv2d")
            conv.cell_index.copy_(tensor.view(conv.num_mixtures, -1).argmax(1))
