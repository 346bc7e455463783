"""The static networks that become dynamic: timm's, with the depths, widths and classes of official ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from timm.layers import DropPath
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.efficientnet import EfficientNet, decode_arch_def
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, make_blocks
from torch import Tensor, nn

from dyvision.checkpoints import shapes as official_shapes
from dyvision.checkpoints._signatures import check_network_arguments
from dyvision.checkpoints.network_names import MOBILENETV2_STYLES, mobilenetv2_norms
from dyvision.checkpoints.shapes import MobileNetPlan, ResNetPlan, Shapes

_FAMILY = re.compile("mobilenet|resnet|convnext|shufflenet|efficientnet", re.IGNORECASE)
#: dropout before the classifier where the official constructor is not told
_DROPOUT = {("odconv", "resnet"): 0.1, ("odconv", "mobilenet"): 0.2, ("kernelwarehouse", "resnet"): 0.1}
#: output stride by what torchvision's ``replace_stride_with_dilation`` says of the last three stages
_DILATED = {(False, False, False): 32, (False, False, True): 16, (False, True, True): 8}


def family_of(text: str) -> str:
    """The family of networks that a text names; the empty string if it names none."""
    found = _FAMILY.search(text)
    return found[0].lower() if found else ""


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
    family = family_of(text)
    check_network_arguments(method, family, text.split()[0], arguments)
    names, shapes = list(parameters), official_shapes.shapes_of(parameters)
    if str(arguments.get("norm_layer") or "BatchNorm2d").rsplit(".", 1)[-1].strip("'>") != "BatchNorm2d":
        raise ValueError(f"norm_layer must be BatchNorm2d, got {arguments['norm_layer']!r}")
    common = {
        "num_classes": official_shapes.classes_of(shapes) or arguments.get("num_classes", 1000),
        "in_chans": _input_channels(shapes) or arguments.get("in_chans", 3),
        "drop_rate": arguments.get("dropout", _DROPOUT.get((method, family))) or 0.0,
    }
    if family == "mobilenet":
        return _mobilenetv2(method, {**_named_width(text), **arguments}, shapes, common)
    if family == "resnet":
        output_stride = _output_stride(arguments.get("replace_stride_with_dilation"))
        model = _resnet(official_shapes.resnet_plan(names, shapes, arguments), output_stride=output_stride, **common)
    else:
        model = _convnext(arguments, shapes, common)
    _drop_paths(model, arguments.get("drop_path_rate", 0.0), grows=family == "convnext")
    return model


def _drop_paths(model: nn.Module, rate: float, grows: bool) -> None:
    """Skip whole blocks in training: as the official networks do, at one rate, or rising to it over all blocks."""
    blocks = [module for module in model.modules() if isinstance(module, (BasicBlock, Bottleneck, ConvNeXtBlock))]
    for number, block in enumerate(blocks):
        part = rate * number / max(len(blocks) - 1, 1) if grows else rate
        if part > 0:
            block.drop_path = DropPath(part)


def _mobilenetv2(method: str, arguments: Mapping[str, Any], shapes: Shapes, common: Mapping[str, Any]) -> nn.Module:
    setting = arguments.get("inverted_residual_setting") or official_shapes.MOBILENETV2
    expansions = [stage[0] for stage in setting for _ in range(stage[2])]
    ends, head = mobilenetv2_norms(MOBILENETV2_STYLES[method], expansions)
    return mobilenetv2_of(official_shapes.mobilenetv2_plan(shapes, arguments, ends, head), **common)


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
    scale = arguments.get("layer_scale_init_value", 1e-6)
    model: nn.Module = ConvNeXt(
        conv_mlp=True, depths=tuple(depths), dims=tuple(dims), ls_init_value=scale if scale > 0 else None, **common
    )
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
