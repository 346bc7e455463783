"""Official KernelWarehouse layers (``OSVAI/KernelWarehouse``, ``modules/kernel_warehouse.py``) as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.checkpoints.interface import REQUIRED, bind_arguments, check_arguments, check_class
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d, share_warehouses
from dyvision.layers.warehouse import warehouse_of

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
_RESERVED: dict[str, Any] = {
    **{"in_planes": REQUIRED, "out_planes": REQUIRED, "kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1},
    **{"groups": 1, "bias": True, "warehouse_name": "default", "enabled": True, "layer_type": "conv2d"},
}
_OF_THE_CONVOLUTION = ("kernel_size", "stride", "padding", "dilation", "groups", "bias")
#: the manager's arguments that may be lists with an entry per warehouse; the others are common to all
_PER_WAREHOUSE = ("reduction", "spatial_partition", "cell_num_ratio", "cell_outplane_ratio", "cell_inplane_ratio")


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
        ValueError: For another class, an argument that it does not have, or what ours cannot do: layers of one or three
            dimensions, norms besides BatchNorm1d and LayerNorm.
    """
    check_class(official_class, "Warehouse_Manager + KWConv2d", "Warehouse_Manager")
    check_arguments(official_class, arguments, ("manager", "convs", "network"))
    defaults = {**MANAGER_DEFAULTS, "sharing_range": ()}
    manager = bind_arguments("Warehouse_Manager", arguments.get("manager", {}), defaults)
    layers = [bind_arguments("Warehouse_Manager.reserve", conv, _RESERVED) for conv in arguments["convs"]]
    sharing_range = manager.pop("sharing_range") or ()
    if isinstance(sharing_range, str):  # as in the official configs: "layer_conv"
        sharing_range = sharing_range.split("_")
    norm = str(manager["norm_layer"]).rsplit(".", 1)[-1].strip("'>")
    if norm not in _NORMS:
        raise ValueError(f"norm_layer must be one of {', '.join(_NORMS)}, got {norm!r}")
    manager["norm_layer"] = _NORMS[norm]
    names = [warehouse_of(layer["warehouse_name"], sharing_range) for layer in layers]
    order = list(dict.fromkeys(name for name, layer in zip(names, layers, strict=True) if layer["enabled"]))
    own = of_warehouses(manager, len(order))
    convs: list[KernelWarehouseConv2d | nn.Conv2d] = []
    for name, layer in zip(names, layers, strict=True):
        if layer["layer_type"] != "conv2d":
            raise ValueError(f"layer_type must be 'conv2d', got {layer['layer_type']!r}: images have two dimensions")
        options: dict[str, Any] = {
            key: tuple(value) if _is_list(value := layer[key]) else value for key in _OF_THE_CONVOLUTION
        }
        in_channels, out_channels = layer["in_planes"], layer["out_planes"]
        if layer["enabled"]:
            mixing = state.get("temp_value", 0.0)
            manager_options = own[order.index(name)]
            convs.append(KernelWarehouseConv2d(in_channels, out_channels, mixing=mixing, **options, **manager_options))
        else:
            convs.append(nn.Conv2d(in_channels, out_channels, **options))
    return WarehouseNetwork(convs, names)


def of_warehouses(manager: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The manager's arguments for each of its warehouses.

    Raises:
        ValueError: If a list has neither one entry nor one per warehouse.
    """
    for name, value in manager.items():
        if _is_list(value) and (name not in _PER_WAREHOUSE or len(value) not in (1, count)):
            wanted = f"a number, or a list of 1 or {count}" if name in _PER_WAREHOUSE else "a single value"
            raise ValueError(f"Warehouse_Manager: {name} must be {wanted}, got {value!r}")
    return [
        {name: value[place % len(value)] if _is_list(value) else value for name, value in manager.items()}
        for place in range(count)
    ]


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
