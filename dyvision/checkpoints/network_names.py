"""Names of modules in the official networks, for the networks of this package.

The official networks differ from timm's in names, not in structure. Each function maps official names of modules to
ours; what it does not mention has the same name in both.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import nn

from dyvision.backbones.published.kernelwarehouse import (
    convnext_layers,
    mobilenetv2_layers,
    resnet_layers,
)
from dyvision.layers.classifier import DynamicClassifier
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d

#: how a block of MobileNetV2 names its convolutions and norms: numbered one by one, convolution-norm-activation
#: triples numbered together (all but the last, linear one), or by what they do
_FLAT, _NESTED, _NAMED = "flat", "nested", "named"
MOBILENETV2_STYLES = {"dcd": _FLAT, "condconv": _NAMED, "odconv": _NESTED, "kernelwarehouse": _NESTED}
_NAMED_PAIRS = {
    3: (("pw", "bn_pw"), ("dw", "bn_dw"), ("pw_linear", "bn_pw_linear")),
    2: (("dw", "bn_dw"), ("pw_linear", "bn_pw_linear")),
}


def module_names(model: nn.Module, source: str) -> dict[str, str]:
    """Official names of modules and ours.

    Args:
        model: Our network.
        source: Whose names; see :func:`dyvision.checkpoints.load_official`.

    Returns:
        ``{"features.3.conv.6": "blocks.1.1.conv_pwl", ...}``; the longest name that fits is the one that counts.

    Raises:
        ValueError: If the source has no network of this kind.
    """
    if source == "timm":
        return {
            f"{name.rpartition('.')[0]}.routing_fn": f"{name}.fc"
            for name, _ in model.named_modules()
            if name.endswith(".coefficient_branch")
        }
    if isinstance(model, ResNet):
        # the norm behind DGC's shortcut has a module around it
        shortcuts = [name for name, _ in model.named_modules() if name.endswith(".downsample.1")]
        inside = {f"{name}.norm": name for name in shortcuts} if source == "dgc" else {}
        return {**_classifier(model, "fc"), **inside}
    if isinstance(model, EfficientNet) and source in MOBILENETV2_STYLES:
        return {**_mobilenetv2(model, MOBILENETV2_STYLES[source]), **_classifier(model, "classifier")}
    if isinstance(model, ConvNeXt) and source == "kernelwarehouse":
        return _convnext(model)
    raise ValueError(
        f"source {source!r} has no network like this {type(model).__name__}; there are ResNets for dcd, dgc, odconv, "
        "dyconv and kernelwarehouse, MobileNetV2 for dcd, odconv, condconv and kernelwarehouse, ConvNeXt for "
        "kernelwarehouse, ShuffleNetV2 for weightnet, and whatever timm has for timm"
    )


def warehouse_layers(model: nn.Module) -> list[list[str]]:
    """Names of the layers of each warehouse, in the order in which the official code numbers the warehouses."""
    names: Sequence[str]
    if isinstance(model, ResNet):
        names = list(resnet_layers(model))
    elif isinstance(model, ConvNeXt):
        names = list(convnext_layers(model))
    else:
        names = [*mobilenetv2_layers(model), "classifier.conv"]
    modules = dict(model.named_modules())
    groups: dict[int, list[str]] = {}
    for name in names:
        layer = modules.get(name)
        if isinstance(layer, KernelWarehouseConv2d):
            groups.setdefault(id(layer.warehouse), []).append(name)
    return list(groups.values())


def _classifier(model: nn.Module, name: str) -> dict[str, str]:
    dynamic = isinstance(model.get_submodule(name), DynamicClassifier)
    ours = f"{name}.conv" if dynamic else name
    # in a Sequential behind dropout, or alone in it, or without
    names = {official: ours for official in ("fc", "classifier", "classifier.0", "classifier.1")}
    # KernelWarehouse's own linear layer has a convolution inside; CondConv's routing stands beside its classifier
    inside = {f"classifier.{number}.conv": ours for number in (0, 1)} if dynamic else {}
    return {**names, **inside, **({"classifier_route": f"{ours}.branch"} if dynamic else {})}


def _mobilenetv2(model: EfficientNet, style: str) -> dict[str, str]:
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1"}
    blocks = [
        (f"blocks.{stage}.{place}", block)
        for stage, children in model.blocks.named_children()
        for place, block in children.named_children()
    ]
    for number, (ours, block) in enumerate(blocks, 1):
        # the first block does not expand; timm numbers norms in the order of their convolutions
        convs = ("conv_pw", "conv_dw", "conv_pwl") if hasattr(block, "conv_pwl") else ("conv_dw", "conv_pw")
        for place, conv in enumerate(convs):
            pair = _pair(style, place, len(convs))
            names[f"features.{number}.{pair[0]}"] = f"{ours}.{conv}"
            names[f"features.{number}.{pair[1]}"] = f"{ours}.bn{place + 1}"
        names[f"features.{number}.route"] = f"{ours}.coefficient_branch"
    head = _mobilenetv2_head(style, len(blocks))
    return {**names, f"{head}.0": "conv_head", f"{head}.1": "bn2"}


def mobilenetv2_norms(style: str, expansions: Sequence[float]) -> tuple[list[tuple[str, str]], str]:
    """Official names of the first and the last norm of every block, and of the norm behind them.

    Args:
        style: A value of :data:`MOBILENETV2_STYLES`.
        expansions: Of the blocks, in order; where it is 1 there is no convolution that expands.
    """
    ends = []
    for number, expansion in enumerate(expansions, 1):
        count = 2 if expansion == 1 else 3
        first, last = _pair(style, 0, count)[1], _pair(style, count - 1, count)[1]
        ends.append((f"features.{number}.{first}", f"features.{number}.{last}"))
    return ends, f"{_mobilenetv2_head(style, len(ends))}.1"


def _mobilenetv2_head(style: str, blocks: int) -> str:
    return f"features.{blocks + 1}" if style == _NESTED else "conv"


def _pair(style: str, place: int, count: int) -> tuple[str, str]:
    """Official names of a block's convolution and norm, within the block."""
    if style == _NAMED:
        return _NAMED_PAIRS[count][place]
    if style == _FLAT:
        return f"conv.{3 * place}", f"conv.{3 * place + 1}"
    if place == count - 1:
        return f"conv.{place}", f"conv.{place + 1}"
    return f"conv.{place}.0", f"conv.{place}.1"


def _convnext(model: ConvNeXt) -> dict[str, str]:
    names = {"downsample_layers.0": "stem", "norm": "head.norm", "head": "head.fc"}
    inside = {"dwconv": "conv_dw", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2"}
    for stage, module in model.stages.named_children():
        if stage != "0":
            names[f"downsample_layers.{stage}"] = f"stages.{stage}.downsample"
        for block, _ in module.get_submodule("blocks").named_children():
            ours = f"stages.{stage}.blocks.{block}"
            names[f"stages.{stage}.{block}"] = ours
            names.update({f"stages.{stage}.{block}.{theirs}": f"{ours}.{own}" for theirs, own in inside.items()})
    return names
