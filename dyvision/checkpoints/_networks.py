"""Our network for an official class, the arguments of its constructor and its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import timm
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet, decode_arch_def
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, make_blocks
from torch import Tensor, nn

from dyvision.backbones._classifier import replace_classifier
from dyvision.backbones.dynamize import dynamize
from dyvision.backbones.kernelwarehouse import (
    VARIANTS,
    add_warehouses,
    convnext_layers,
    mobilenetv2_layers,
    resnet_layers,
)
from dyvision.checkpoints import _shapes, weightnet
from dyvision.checkpoints._names import MOBILENETV2_STYLES, mobilenetv2_norms
from dyvision.checkpoints._shapes import MobileNetPlan, ResNetPlan, Shapes
from dyvision.checkpoints.dyconv import TEMPERATURE
from dyvision.checkpoints.kernelwarehouse import MANAGER_DEFAULTS, of_warehouses
from dyvision.layers._warehouse import share_warehouses, warehouse_of
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d

_FAMILY = re.compile("mobilenet|resnet|convnext|shufflenet|efficientnet", re.IGNORECASE)
_TIMM_CONDCONV = re.compile(r"(tf_)?efficientnet_cc_(b\d)_(\d)e")
_Dynamic = Callable[[nn.Module, str, Mapping[str, Any], Shapes], nn.Module]
#: dropout before the classifier where the official constructor is not told
_DROPOUT = {("odconv", "resnet"): 0.1, ("odconv", "mobilenet"): 0.2, ("kernelwarehouse", "resnet"): 0.1}
#: output stride by what torchvision's ``replace_stride_with_dilation`` says of the last three stages
_DILATED = {(False, False, False): 32, (False, False, True): 16, (False, True, True): 8}


def is_network(official_class: str) -> bool:
    """Whether the name of an official class is that of a network, not of a layer."""
    return _FAMILY.search(official_class) is not None


def _family(text: str) -> str:
    found = _FAMILY.search(text)
    return found[0].lower() if found else ""


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
    family, shapes = _family(official_class), _shapes.shapes_of(parameters)
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
    return model


def static_network(
    method: str, text: str, arguments: Mapping[str, Any], parameters: Mapping[str, Tensor] | Iterable[str]
) -> nn.Module:
    """The static network that becomes dynamic: timm's, with the depths, widths and classes of an official one.

    Args:
        method: Name of the method.
        text: A text in which the family occurs: ``"od_mobilenetv2_050"``.
        arguments: As for :func:`build_network`.
        parameters: As for :func:`build_network`.

    Raises:
        ValueError: If an argument has a value that is not supported, or the parameters are not of the family.
    """
    family = _family(text)
    names, shapes = list(parameters), _shapes.shapes_of(parameters)
    if arguments.get("norm_layer") not in (None, "BatchNorm2d", "torch.nn.BatchNorm2d"):
        raise ValueError(f"norm_layer must be BatchNorm2d, got {arguments['norm_layer']!r}")
    common = {
        "num_classes": _shapes.classes_of(shapes) or arguments.get("num_classes", 1000),
        "in_chans": _input_channels(shapes) or arguments.get("in_chans", 3),
        "drop_rate": arguments.get("dropout", _DROPOUT.get((method, family))) or 0.0,
    }
    if family == "mobilenet":
        return _mobilenetv2(method, {**_named_width(text), **arguments}, shapes, common)
    if family == "resnet":
        output_stride = _output_stride(arguments.get("replace_stride_with_dilation"))
        return _resnet(_shapes.resnet_plan(names, shapes, arguments), output_stride=output_stride, **common)
    return _convnext(arguments, shapes, common)


def _mobilenetv2(method: str, arguments: Mapping[str, Any], shapes: Shapes, common: Mapping[str, Any]) -> nn.Module:
    setting = arguments.get("inverted_residual_setting") or _shapes.MOBILENETV2
    expansions = [stage[0] for stage in setting for _ in range(stage[2])]
    ends, head = mobilenetv2_norms(MOBILENETV2_STYLES[method], expansions)
    return mobilenetv2_of(_shapes.mobilenetv2_plan(shapes, arguments, ends, head), **common)


def mobilenetv2_of(plan: MobileNetPlan, **options: Any) -> nn.Module:
    """Timm's MobileNetV2 with other channels."""
    stages = [
        [f"ds_r{n}_k3_s{stride}_c{c}" if expansion == 1 else f"ir_r{n}_k3_s{stride}_e{expansion}_c{c}"]
        for expansion, c, n, stride in plan.stages
    ]
    model: nn.Module = EfficientNet(
        decode_arch_def(stages),
        num_features=plan.head,
        stem_size=plan.stem,
        fix_stem=True,
        round_chs_fn=int,
        act_layer=nn.ReLU6,
        **options,
    )
    return model


def _named_width(text: str) -> dict[str, float]:
    """``width_mult`` of half the channels, from the name ``mobilenetv2_050``."""
    named = re.search(r"mobilenetv2_(\d{3})", text)
    return {"width_mult": int(named[1]) / 100} if named else {}


def _resnet(plan: ResNetPlan, output_stride: int = 32, **options: Any) -> nn.Module:
    block: Any = Bottleneck if plan.bottleneck else BasicBlock
    construct: Any = ResNet  # timm annotates instances where it takes classes
    form: dict[str, Any] = {"cardinality": plan.cardinality, "base_width": plan.base_width}
    form["output_stride"] = output_stride
    model: nn.Module = construct(block, plan.blocks, channels=plan.widths, **form, **options)
    if plan.stem != 64:  # timm's constructor has no argument for it
        norms: dict[str, Any] = {"act_layer": nn.ReLU, "norm_layer": nn.BatchNorm2d, "aa_layer": None}
        stages, _ = make_blocks((block,) * 4, plan.widths, plan.blocks, plan.stem, **form, **norms)
        model.conv1 = nn.Conv2d(options.get("in_chans", 3), plan.stem, 7, 2, 3, bias=False)
        model.bn1 = nn.BatchNorm2d(plan.stem)
        for name, stage in stages:
            model.set_submodule(name, stage)
        model.feature_info[0]["num_chs"] = plan.stem  # type: ignore[index]
        model.init_weights()  # type: ignore[operator]
    return model


def _convnext(arguments: Mapping[str, Any], shapes: Shapes, common: Mapping[str, Any]) -> nn.Module:
    depths = list(arguments.get("depths", (3, 3, 9, 3)))
    dims = list(arguments.get("dims", (96, 192, 384, 768)))
    norms = [name for name in shapes if re.fullmatch(r"stages\.\d\.\d+\.norm\.weight", name)]
    for name in norms:
        dims[int(name.split(".")[1])] = shapes[name][0]
    if norms:
        depths = [sum(name.startswith(f"stages.{stage}.") for name in norms) for stage in range(4)]
    model: nn.Module = ConvNeXt(conv_mlp=True, depths=tuple(depths), dims=tuple(dims), **common)
    return model


def _output_stride(dilated: Any) -> int:
    key = tuple(bool(value) for value in dilated or (False, False, False))
    if key not in _DILATED:
        raise ValueError(
            f"replace_stride_with_dilation must be one of {', '.join(map(str, map(list, _DILATED)))}, got {dilated!r}"
        )
    return _DILATED[key]


def _input_channels(shapes: Shapes) -> int | None:
    stems = ("conv1.weight", "features.0.0.weight", "downsample_layers.0.0.weight")
    return next((shapes[name][1] for name in stems if name in shapes and len(shapes[name]) == 4), None)


def _efficientnet(arguments: Mapping[str, Any], shapes: Shapes, text: str) -> nn.Module:
    name = _TIMM_CONDCONV.search(text)
    if name is None:
        raise ValueError("which EfficientNet? Arguments or case have to name it, as in efficientnet_cc_b0_4e")
    prefix, variant, kernels = name.groups(default="")
    classes = _shapes.classes_of(shapes) or arguments.get("num_classes", 1000)
    static = timm.create_model(f"{prefix}efficientnet_{variant}", num_classes=classes)
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
    "dyconv": {"resnet": _dyconv},
    "kernelwarehouse": {family: _kernelwarehouse for family in _LAYERS},
    "odconv": {"mobilenet": _odconv, "resnet": _odconv},
}
