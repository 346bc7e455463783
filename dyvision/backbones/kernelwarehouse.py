"""The networks published with KernelWarehouse: which layers share a warehouse, and in which budget.

Li and Yao, ICML 2024, arXiv 2406.07879; official ``OSVAI/KernelWarehouse``, ``models/`` and ``configs/``. They are
timm's networks with their convolutions replaced. A layer is called ``stage0_layer1_conv0``; a variant's sharing range
says which parts of that name layers of one warehouse have in common. What leads into a stage is handed over to the
warehouse of the stage before, whose channels it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dyvision.backbones._registration import register_backbone
from dyvision.layers.classifier import DynamicClassifier
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d, share_warehouses
from dyvision.layers.warehouse import warehouse_of

#: MobileNetV2's stages of 16, 24, 32, 64, 96, 160 and 320 channels; the last two share
_MOBILENETV2_STAGES = (1, 2, 3, 4, 5, 6, 6)


def resnet_layers(model: nn.Module) -> dict[str, str]:
    """Layer names by module name: all but the stem and, of bottlenecks, what leads into the first stage."""
    names = {}
    for stage in range(4):
        for block, module in enumerate(model.get_submodule(f"layer{stage + 1}").children()):
            convs = ["conv1", "conv2", "conv3"] if hasattr(module, "conv3") else ["conv1", "conv2"]
            shortcut = [] if module.downsample is None else ["downsample.0"]
            for number, conv in enumerate(convs + shortcut):
                handed = block == 0 and conv in ("conv1", "downsample.0")
                if handed and stage == 0 and "conv3" in convs:
                    continue
                # a basic block's first stage keeps its width, so nothing is handed over to a stage before it
                owner = max(stage - handed, 0)
                names[f"layer{stage + 1}.{block}.{conv}"] = f"stage{owner}_layer{block}_conv{number}"
    return names


def mobilenetv2_layers(model: nn.Module) -> dict[str, str]:
    """Layer names by module name: every convolution; the first block of a stage is handed over as a whole."""
    names = {"conv_stem": "stage0_conv0"}
    for index, stage in enumerate(_MOBILENETV2_STAGES):
        for block, module in enumerate(model.get_submodule(f"blocks.{index}").children()):
            handed = block == 0 and index > 0 and stage != _MOBILENETV2_STAGES[index - 1]
            kinds = {"conv_pw": "pwconv0", "conv_dw": "dwconv0", "conv_pwl": "pwconv1"}
            if not hasattr(module, "conv_pwl"):  # the first block does not expand
                kinds = {"conv_dw": "dwconv0", "conv_pw": "pwconv1"}
            for conv, kind in kinds.items():
                names[f"blocks.{index}.{block}.{conv}"] = f"stage{stage - handed}_layer{block}_{kind}"
    names["conv_head"] = f"stage{_MOBILENETV2_STAGES[-1]}_layer_pwconv1"
    return names


def mobilenetv2_half_layers(model: nn.Module) -> dict[str, str]:
    """The same without the 1x1 convolutions before stage 6, and with the classifier."""
    names = {
        name: layer
        for name, layer in mobilenetv2_layers(model).items()
        if "_pwconv" not in layer or layer.startswith("stage6_")
    }
    return {**names, "classifier": "classifier"}


def convnext_layers(model: nn.Module) -> dict[str, str]:
    """Layer names by module name: every convolution; the depthwise ones of a stage share, so do the 1x1."""
    names = {"stem.0": "stagestem_conv0"}
    for stage in range(1, 4):
        names[f"stages.{stage}.downsample.1"] = f"stage{stage - 1}_layerds_conv0"
    for stage in range(4):
        for block in range(len(list(model.get_submodule(f"stages.{stage}.blocks").children()))):
            for module, kind in (("conv_dw", "dwconv0"), ("mlp.fc1", "pwconv1"), ("mlp.fc2", "pwconv2")):
                names[f"stages.{stage}.blocks.{block}.{module}"] = f"stage{stage}_layer{block}_{kind}"
    return names


@dataclass(frozen=True)
class Variant:
    """One published network.

    Attributes:
        backbone: timm's name of the static network.
        layers: Layer names by module name.
        sharing_range: See :func:`dyvision.layers.warehouse.warehouse_of`.
        arguments: Of every :class:`KernelWarehouseConv2d`.
        exceptions: Further arguments, by warehouse.
        model_kwargs: For timm's constructor.
    """

    backbone: str
    layers: Callable[[nn.Module], dict[str, str]]
    sharing_range: tuple[str, ...]
    arguments: Mapping[str, Any]
    exceptions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)


def _budget(ratio: float, cell: float = 1.0, **others: float) -> dict[str, Any]:
    return {"cell_num_ratio": ratio, "cell_inplane_ratio": cell, "cell_outplane_ratio": cell, **others}


_STAGE = ("layer", "conv")
_HALF_CELLS = _budget(0.5, 0.5)
_HALF_MOBILENETV2: dict[str, Any] = {
    "layers": mobilenetv2_half_layers,
    "sharing_range": ("layer",),
    "arguments": _budget(1, reduction=1 / 32),
    "exceptions": {
        "stage6_layer_pwconv0": _HALF_CELLS,
        "stage6_layer_pwconv1": _HALF_CELLS,
        "classifier": {"cell_num_ratio": 0.5, "cell_inplane_ratio": 0.025, "cell_outplane_ratio": 1.0},
    },
}

VARIANTS: dict[str, Variant] = {
    "kw1d4x_resnet18": Variant("resnet18", resnet_layers, _STAGE, _budget(0.25, 0.5)),
    "kw1d2x_resnet18": Variant("resnet18", resnet_layers, _STAGE, _HALF_CELLS),
    "kw1x_resnet18": Variant("resnet18", resnet_layers, _STAGE, _budget(1)),
    "kw2x_resnet18": Variant("resnet18", resnet_layers, _STAGE, _budget(2)),
    "kw4x_resnet18": Variant("resnet18", resnet_layers, _STAGE, _budget(4)),
    "kw1d2x_resnet50": Variant("resnet50", resnet_layers, _STAGE, {**_HALF_CELLS, "nonlocal_basis_ratio": 1 / 16}),
    "kw1x_resnet50": Variant("resnet50", resnet_layers, _STAGE, _budget(1)),
    "kw4x_resnet50": Variant("resnet50", resnet_layers, _STAGE, _budget(4)),
    "kw1d2x_mobilenetv2_100": Variant("mobilenetv2_100", **_HALF_MOBILENETV2),
    "kw1x_mobilenetv2_100": Variant("mobilenetv2_100", mobilenetv2_layers, ("layer", "pwconv"), _budget(1)),
    "kw4x_mobilenetv2_100": Variant("mobilenetv2_100", mobilenetv2_layers, ("layer",), _budget(4)),
    "kw1d2x_mobilenetv2_050": Variant("mobilenetv2_050", **_HALF_MOBILENETV2),
    "kw1x_mobilenetv2_050": Variant("mobilenetv2_050", mobilenetv2_layers, ("layer", "pwconv"), _budget(1)),
    "kw4x_mobilenetv2_050": Variant("mobilenetv2_050", mobilenetv2_layers, ("layer",), _budget(4)),
    "kw1x_convnext_tiny": Variant(
        "convnext_tiny",
        convnext_layers,
        ("layer", "pwconv"),
        {**_budget(1), "norm_layer": "layernorm"},
        model_kwargs={"conv_mlp": True},
    ),
}


def create_kernelwarehouse(
    name: str, num_classes: int = 1000, preserve_outputs: bool = False, mixing: float = 0.0, **model_kwargs: Any
) -> nn.Module:
    """Create a network published with KernelWarehouse.

    Args:
        name: A name of :data:`VARIANTS`, ``"kw1x_resnet18"``.
        num_classes: Outputs of the classifier; 0 gives pooled features.
        preserve_outputs: Start from the static network's weights (``pretrained=True``); for budgets of at least 1x.
        mixing: Initial t of all layers; the paper trains from 1.
        **model_kwargs: For ``timm.create_model``.

    Raises:
        ValueError: For an unknown name, or if outputs cannot be preserved.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown KernelWarehouse network {name!r}; choose from {', '.join(VARIANTS)}")
    variant = VARIANTS[name]
    options = {**variant.model_kwargs, **model_kwargs}
    model: nn.Module = timm.create_model(variant.backbone, num_classes=num_classes, **options)
    return add_warehouses(model, variant, preserve_outputs, mixing)


def add_warehouses(
    model: nn.Module, variant: Variant, preserve_outputs: bool = False, mixing: float = 0.0
) -> nn.Module:
    """Replace the convolutions of a static network, of any widths, as in a published one; in place.

    Args:
        model: A network with the modules of the variant's backbone.
        variant: Which layers share what, in which budget.
        preserve_outputs: Start from the network's weights; for budgets of at least 1x.
        mixing: Initial t of all layers.

    Raises:
        ValueError: If outputs cannot be preserved.
    """
    groups: dict[str, list[KernelWarehouseConv2d]] = {}
    built: list[tuple[KernelWarehouseConv2d, Tensor, Tensor | None]] = []
    for module, layer_name in variant.layers(model).items():
        warehouse = warehouse_of(layer_name, variant.sharing_range)
        arguments = {**variant.arguments, **variant.exceptions.get(warehouse, {}), "mixing": mixing}
        static = model.get_submodule(module)
        if isinstance(static, (nn.Conv2d, nn.Linear)):  # no classifier otherwise
            layer = _replace(model, module, static, arguments)
            groups.setdefault(warehouse, []).append(layer)
            built.append((layer, static.weight.detach(), static.bias))
    share_warehouses(groups)
    if preserve_outputs:
        with torch.no_grad():
            for layer, weight, bias in built:
                layer.load_static(weight.view(layer.kernel_shape), bias)
    return model


def _build(name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
    return create_kernelwarehouse(name, preserve_outputs=pretrained, pretrained=pretrained, **arguments)


for _name in VARIANTS:
    register_backbone(_name)(partial(_build, _name))


def _replace(
    model: nn.Module, name: str, static: nn.Conv2d | nn.Linear, arguments: dict[str, Any]
) -> KernelWarehouseConv2d:
    """Put a layer in place of a convolution or a linear classifier."""
    if isinstance(static, nn.Conv2d):
        layer = KernelWarehouseConv2d.from_conv(static, preserve_outputs=False, **arguments)
        model.set_submodule(name, layer)
        return layer
    dd: dict[str, Any] = {"device": static.weight.device, "dtype": static.weight.dtype}
    layer = KernelWarehouseConv2d(
        static.in_features, static.out_features, 1, bias=static.bias is not None, **arguments, **dd
    )
    model.set_submodule(name, DynamicClassifier(layer))
    return layer
