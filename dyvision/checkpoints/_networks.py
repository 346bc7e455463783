"""Our network for an official class, the arguments of its constructor and its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from dyvision.backbones._classifier import replace_classifier
from dyvision.backbones.kernelwarehouse import (
    VARIANTS,
    add_warehouses,
    convnext_layers,
    mobilenetv2_layers,
    resnet_layers,
)
from dyvision.checkpoints import _shapes, weightnet
from dyvision.checkpoints._shapes import Shapes
from dyvision.checkpoints._static import family_of, static_network
from dyvision.checkpoints.dgc import follow_progress
from dyvision.checkpoints.dyconv import TEMPERATURE
from dyvision.checkpoints.kernelwarehouse import MANAGER_DEFAULTS, of_warehouses
from dyvision.convert.dynamize import dynamize
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d, share_warehouses
from dyvision.layers.warehouse import warehouse_of

_TIMM_CONDCONV = re.compile(r"(tf_)?efficientnet_cc_(b\d)_(\d)e")
_Dynamic = Callable[[nn.Module, str, Mapping[str, Any], Shapes], nn.Module]


def is_network(official_class: str) -> bool:
    """Whether the name of an official class is that of a network, not of a layer."""
    return bool(family_of(official_class))


def build_network(
    method: str,
    official_class: str,
    arguments: Mapping[str, Any],
    state: Mapping[str, Any],
    parameters: Mapping[str, Tensor] | Iterable[str],
    case: str = "",
) -> nn.Module:
    """Build our network for an official one.

    Args:
        method: Name of the method, one of :data:`dyvision.checkpoints.SOURCES`.
        official_class: Name of the official class or function, ``"MobileNetV2_dcd"``, ``"od_resnet18"``.
        arguments: Of its constructor; also ``widths``, the channels of a ResNet's four stages.
        state: ``temperature`` or ``temp_value``, if set after construction.
        parameters: Its state dict. Depths, widths and what the layers' arguments have to be are read from the shapes,
            where these and ``arguments`` differ; of names alone only the depths are.
        case: Any further text that may hold the network's name, for what the arguments leave open.

    Returns:
        A network into which :func:`dyvision.checkpoints.load_official` loads.

    Raises:
        ValueError: If the method has no network of that kind, or an argument has a value that is not supported.
    """
    family, shapes = family_of(official_class), _shapes.shapes_of(parameters)
    if family == "shufflenet" and method == "weightnet":
        return weightnet.build_network(arguments, shapes)
    text = f"{official_class} {case} {' '.join(str(value) for value in arguments.values())}"
    if family == "efficientnet" and method in ("condconv", "timm"):
        return _efficientnet(arguments, shapes, text)
    families = _DYNAMIC.get(method, {})
    if family not in families:
        known = "; ".join(f"{name}: {', '.join(kinds)}" for name, kinds in _DYNAMIC.items())
        raise ValueError(f"no network for class {official_class!r} of method {method!r}; there are {known}")
    static = static_network(method, f"{official_class} {text}", arguments, parameters)
    if family == "mobilenet" and "1d2x" in official_class.lower():
        model = add_warehouses(static, VARIANTS["kw1d2x_mobilenetv2_100"])
    else:
        model = families[family](static, family, arguments, shapes)
    for module in model.modules():
        for name, method_name, default in (
            ("temperature", "set_temperature", TEMPERATURE if method == "dyconv" else 1.0),
            ("temp_value", "set_mixing", 0.0),
        ):
            if hasattr(module, method_name):
                getattr(module, method_name)(state.get(name, default))
    follow_progress(model, state.get("global_progress", 0.0))
    return model


def _efficientnet(arguments: Mapping[str, Any], shapes: Shapes, text: str) -> nn.Module:
    name = _TIMM_CONDCONV.search(text)
    if name is None:
        raise ValueError("which EfficientNet? Arguments or case have to name it, as in efficientnet_cc_b0_4e")
    prefix, variant, kernels = name.groups(default="")
    classes = _shapes.classes_of(shapes) or arguments.get("num_classes", 1000)
    others = {key: value for key, value in arguments.items() if key != "num_classes" and value != name[0]}
    try:
        static = timm.create_model(f"{prefix}efficientnet_{variant}", num_classes=classes, **others)
    except TypeError as error:
        raise ValueError(f"{name[0]}: {error}") from error
    return dynamize(static, "condconv", preserve_outputs=False, num_kernels=int(kernels))


def _dcd(static: nn.Module, family: str, arguments: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    bottleneck = any(isinstance(module, Bottleneck) for module in static.modules())
    form = "pointwise" if family == "mobilenet" else "bottleneck" if bottleneck else "basic"
    default = arguments.get("fc_squeeze", 8) if family == "mobilenet" else 16
    own: dict[str, Any] = {"form": form, "squeeze": _shapes.dcd_squeeze(shapes, form, default)}
    return replace_classifier(dynamize(static, "dcd", preserve_outputs=False, **own), "dcd")


def _condconv(static: nn.Module, family: str, arguments: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    count = _shapes.num_kernels(shapes, "route.fc.bias") or arguments.get("num_experts", 8)
    own: dict[str, Any] = {"num_kernels": count}
    return replace_classifier(dynamize(static, "condconv", preserve_outputs=False, **own), "condconv", layer_kwargs=own)


def _odconv(static: nn.Module, family: str, arguments: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    # MobileNetV2: everything but the stem, which is the policy of that name; ResNet: shortcuts stay static
    policy = "dyconv" if family == "mobilenet" else "blocks"
    count, reduction = arguments.get("kernel_num", 1), arguments.get("reduction", 0.0625)
    if shapes:
        count = _shapes.num_kernels(shapes, ".attention.kernel_fc.bias") or 1
        reduction = _shapes.odconv_reduction(shapes)
    return dynamize(static, "odconv", policy=policy, preserve_outputs=False, num_kernels=count, reduction=reduction)


def _dyconv(static: nn.Module, family: str, arguments: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    count = _shapes.num_kernels(shapes, ".attention.fc2.weight") or 4
    return dynamize(static, "dyconv", preserve_outputs=False, num_kernels=count, ratio=_shapes.dyconv_ratio(shapes))


def _dgc(static: nn.Module, family: str, arguments: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    # every convolution but the stem, shortcuts too: the policy of DyConv
    given = {**(arguments.get("args") or {}), **arguments}
    heads, rate = _shapes.dgc_heads(shapes, given.get("heads", 4), given.get("squeeze_rate", 16))
    own: dict[str, Any] = {"heads": heads, "squeeze_rate": rate, "gate_factor": given.get("gate_factor", 0.25)}
    return dynamize(static, "dgc", policy="dyconv", preserve_outputs=False, pre_activation=True, **own)


_SHARING = {"resnet": ("layer", "conv"), "mobilenet": (), "convnext": ("layer", "pwconv")}
_LAYERS = {"resnet": resnet_layers, "mobilenet": mobilenetv2_layers, "convnext": convnext_layers}


def _kernelwarehouse(static: nn.Module, family: str, arguments: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    sharing = arguments.get("sharing_range", _SHARING[family]) or ()
    sharing = sharing.split("_") if isinstance(sharing, str) else sharing
    own = {name: arguments.get(name, default) for name, default in MANAGER_DEFAULTS.items() if name != "norm_layer"}
    own["norm_layer"] = "layernorm" if family == "convnext" else "batchnorm"
    names = {module: warehouse_of(layer, sharing) for module, layer in _LAYERS[family](static).items()}
    order = list(dict.fromkeys(names.values()))
    values = of_warehouses(own, len(order))
    groups: dict[str, list[KernelWarehouseConv2d]] = {}
    for module, warehouse in names.items():
        conv = static.get_submodule(module)
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"{module} is a {type(conv).__name__}, not a convolution")
        layer = KernelWarehouseConv2d.from_conv(conv, preserve_outputs=False, **values[order.index(warehouse)])
        static.set_submodule(module, layer)
        groups.setdefault(warehouse, []).append(layer)
    share_warehouses(groups)
    return static


_DYNAMIC: dict[str, dict[str, _Dynamic]] = {
    "condconv": {"mobilenet": _condconv},
    "dcd": {"mobilenet": _dcd, "resnet": _dcd},
    "dgc": {"resnet": _dgc},
    "dyconv": {"resnet": _dyconv},
    "kernelwarehouse": {family: _kernelwarehouse for family in _LAYERS},
    "odconv": {"mobilenet": _odconv, "resnet": _odconv},
}
