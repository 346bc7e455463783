"""Our network for an official class, the arguments of its constructor and its parameters' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import _gen_mobilenet_v2
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from dyvision.backbones._classifier import replace_classifier
from dyvision.backbones.dynamize import dynamize
from dyvision.backbones.kernelwarehouse import (
    convnext_layers,
    create_kernelwarehouse,
    mobilenetv2_layers,
    resnet_layers,
)
from dyvision.checkpoints import weightnet
from dyvision.checkpoints.dyconv import TEMPERATURE
from dyvision.checkpoints.kernelwarehouse import MANAGER_DEFAULTS
from dyvision.layers._warehouse import share_warehouses, warehouse_of
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d

_FAMILY = re.compile("mobilenet|resnet|convnext|shufflenet|efficientnet", re.IGNORECASE)
_TIMM_CONDCONV = re.compile(r"(tf_)?efficientnet_cc_(b\d)_(\d)e")
_Dynamic = Callable[[nn.Module, str, Mapping[str, Any]], nn.Module]


def is_network(official_class: str) -> bool:
    """Whether the name of an official class is that of a network, not of a layer."""
    return _FAMILY.search(official_class) is not None


def build_network(
    method: str,
    official_class: str,
    arguments: Mapping[str, Any],
    state: Mapping[str, Any],
    parameters: Iterable[str],
    case: str = "",
) -> nn.Module:
    """Build our network for an official one.

    Args:
        method: Name of the method, one of :data:`dyvision.checkpoints.SOURCES`.
        official_class: Name of the official class or function, ``"MobileNetV2_dcd"``, ``"od_resnet18"``.
        arguments: Of its constructor.
        state: ``temperature`` or ``temp_value``, if set after construction.
        parameters: Names in its state dict: how many blocks a ResNet has is not among the arguments.
        case: Any further text that may hold the network's name, for what the arguments leave open.

    Returns:
        A network into which :func:`dyvision.checkpoints.load_official` loads.

    Raises:
        ValueError: If the method has no network of that kind, or an argument has a value that is not supported.
    """
    found = _FAMILY.search(official_class)
    family = found[0].lower() if found else ""
    if family == "shufflenet" and method == "weightnet":
        return weightnet.build_layer("ShuffleNetV2", dict(arguments), dict(state))
    text = f"{official_class} {case} {' '.join(str(value) for value in arguments.values())}"
    if family == "efficientnet" and method in ("condconv", "timm"):
        return _efficientnet(arguments, text)
    families = _DYNAMIC.get(method, {})
    if family not in families:
        known = "; ".join(f"{name}: {', '.join(kinds)}" for name, kinds in _DYNAMIC.items())
        raise ValueError(f"no network for class {official_class!r} of method {method!r}; there are {known}")
    classes = arguments.get("num_classes", 1000)
    if family == "mobilenet":
        if "1d2x" in official_class.lower():
            width = _width(arguments, text)
            return create_kernelwarehouse(f"kw1d2x_mobilenetv2_{width}", classes, mixing=state.get("temp_value", 0.0))
        static = _mobilenetv2(_width(arguments, text), classes)
    elif family == "resnet":
        static = _resnet(parameters, classes, arguments)
    else:
        sizes = {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)}
        given: dict[str, Any] = {name: tuple(arguments.get(name, default)) for name, default in sizes.items()}
        static = ConvNeXt(in_chans=arguments.get("in_chans", 3), num_classes=classes, conv_mlp=True, **given)
    model = families[family](static, family, arguments)
    for module in model.modules():
        for name, method_name, default in (
            ("temperature", "set_temperature", TEMPERATURE if method == "dyconv" else 1.0),
            ("temp_value", "set_mixing", 0.0),
        ):
            if hasattr(module, method_name):
                getattr(module, method_name)(state.get(name, default))
    return model


def _mobilenetv2(width: str, classes: int) -> nn.Module:
    name = f"mobilenetv2_{width}"
    if timm.is_model(name):
        return timm.create_model(name, num_classes=classes)
    if int(width) < 20:
        raise ValueError(
            f"width_mult must be at least 0.2, got {int(width) / 100}: there the official code rounds channels to "
            "multiples of 4, ours to 8"
        )
    # a width that timm has no name for
    model: nn.Module = _gen_mobilenet_v2("mobilenetv2_100", int(width) / 100, num_classes=classes)
    return model


def _width(arguments: Mapping[str, Any], text: str) -> str:
    """``"050"`` for half the channels, from the arguments or the name ``mobilenetv2_050``."""
    named = re.search(r"mobilenetv2_(\d{3})", text)
    if "width_mult" in arguments:
        return f"{round(100 * arguments['width_mult']):03d}"
    return named[1] if named else "100"


def _resnet(parameters: Iterable[str], classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    blocks: dict[str, int] = {}
    bottleneck = False
    for name in parameters:
        place = re.match(r"layer([1-4])\.(\d+)\.", name)
        if place:
            blocks[place[1]] = max(blocks.get(place[1], 0), int(place[2]) + 1)
            bottleneck = bottleneck or ".conv3." in name
    if sorted(blocks) != ["1", "2", "3", "4"]:
        raise ValueError(f"a ResNet has blocks in layer1 to layer4, but these names have {sorted(blocks) or 'none'}")
    construct: Any = ResNet  # timm annotates instances where it takes classes
    model: nn.Module = construct(
        Bottleneck if bottleneck else BasicBlock,
        [blocks[stage] for stage in sorted(blocks)],
        num_classes=classes,
        cardinality=arguments.get("groups", 1),
        base_width=arguments.get("width_per_group", 64),
    )
    return model


def _efficientnet(arguments: Mapping[str, Any], text: str) -> nn.Module:
    name = _TIMM_CONDCONV.search(text)
    if name is None:
        raise ValueError("which EfficientNet? Arguments or case have to name it, as in efficientnet_cc_b0_4e")
    prefix, variant, kernels = name.groups(default="")
    static = timm.create_model(f"{prefix}efficientnet_{variant}", num_classes=arguments.get("num_classes", 1000))
    return dynamize(static, "condconv", preserve_outputs=False, num_kernels=int(kernels))


def _dcd(static: nn.Module, family: str, arguments: Mapping[str, Any]) -> nn.Module:
    if family == "mobilenet":
        own = {"squeeze": arguments.get("fc_squeeze", 8)}
    else:
        bottleneck = any(isinstance(module, Bottleneck) for module in static.modules())
        own = {"squeeze": 16, "form": "bottleneck" if bottleneck else "basic"}
    return replace_classifier(dynamize(static, "dcd", preserve_outputs=False, **own), "dcd")


def _condconv(static: nn.Module, family: str, arguments: Mapping[str, Any]) -> nn.Module:
    own = {"num_kernels": arguments.get("num_experts", 8)}
    return replace_classifier(dynamize(static, "condconv", preserve_outputs=False, **own), "condconv", layer_kwargs=own)


def _odconv(static: nn.Module, family: str, arguments: Mapping[str, Any]) -> nn.Module:
    # MobileNetV2: everything but the stem, which is the policy of that name; ResNet: shortcuts stay static
    policy = "dyconv" if family == "mobilenet" else "blocks"
    own = {"num_kernels": arguments.get("kernel_num", 1), "reduction": arguments.get("reduction", 0.0625)}
    return dynamize(static, "odconv", policy=policy, preserve_outputs=False, **own)


def _dyconv(static: nn.Module, family: str, arguments: Mapping[str, Any]) -> nn.Module:
    return dynamize(static, "dyconv", preserve_outputs=False)


_SHARING = {"resnet": ("layer", "conv"), "mobilenet": (), "convnext": ("layer", "pwconv")}
_LAYERS = {"resnet": resnet_layers, "mobilenet": mobilenetv2_layers, "convnext": convnext_layers}


def _kernelwarehouse(static: nn.Module, family: str, arguments: Mapping[str, Any]) -> nn.Module:
    sharing = arguments.get("sharing_range", _SHARING[family]) or ()
    sharing = sharing.split("_") if isinstance(sharing, str) else sharing
    own = {name: arguments.get(name, default) for name, default in MANAGER_DEFAULTS.items() if name != "norm_layer"}
    own["norm_layer"] = "layernorm" if family == "convnext" else "batchnorm"
    names = {module: warehouse_of(layer, sharing) for module, layer in _LAYERS[family](static).items()}
    order = list(dict.fromkeys(names.values()))
    groups: dict[str, list[KernelWarehouseConv2d]] = {}
    for module, warehouse in names.items():
        conv = static.get_submodule(module)
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"{module} is a {type(conv).__name__}, not a convolution")
        place = order.index(warehouse)
        values = {
            key: value[place % len(value)] if isinstance(value, (list, tuple)) else value for key, value in own.items()
        }
        layer = KernelWarehouseConv2d.from_conv(conv, preserve_outputs=False, **values)
        static.set_submodule(module, layer)
        groups.setdefault(warehouse, []).append(layer)
    share_warehouses(groups)
    return static


_DYNAMIC: dict[str, dict[str, _Dynamic]] = {
    "condconv": {"mobilenet": _condconv},
    "dcd": {"mobilenet": _dcd, "resnet": _dcd},
    "dyconv": {"resnet": _dyconv},
    "kernelwarehouse": {family: _kernelwarehouse for family in _LAYERS},
    "odconv": {"mobilenet": _odconv, "resnet": _odconv},
}
