"""Segmentation heads by name, for any backbone with ``feature_info``: torchvision's here, mmseg's by their type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.lraspp import LRASPPHead

from dyvision.registry import Registry
from dyvision.tasks.components import (
    Component,
    ComponentSpec,
    accepted_arguments,
    check_arguments,
    choose,
    import_object,
    parse_component,
)
from dyvision.tasks.heads.arguments import check_head_arguments
from dyvision.tasks.heads.norm import guard_batch_norms
from dyvision.tasks.heads.segmentation._trial import check_output
from dyvision.tasks.heads.segmentation.mmseg import MMSEG_HEADS, build_mmseg_head, is_multi_level


@dataclass(frozen=True)
class Features:
    """What a head has to know of its backbone.

    Attributes:
        channels: Channels of each feature map, finest first.
        reduction: Stride of each.
        default_level: The level a head with one input takes: -1, or -2 for an auxiliary head.
    """

    channels: tuple[int, ...]
    reduction: tuple[int, ...]
    default_level: int = -1

    def check_level(self, level: int, what: str) -> int:
        """Return ``level`` if the backbone has it.

        Raises:
            ValueError: If not.
        """
        count = len(self.channels)
        if not isinstance(level, int) or not -count <= level < count:
            raise ValueError(f"{what}={level!r}: the backbone has {count} levels, -{count} to {count - 1}")
        return level


class OneLevelHead(nn.Module):
    """A head that looks at one feature map.

    Args:
        layers: Module from ``[B, C, h, w]`` to logits.
        level: Which of the feature maps.
    """

    def __init__(self, layers: nn.Module, level: int) -> None:
        super().__init__()
        self.layers = layers
        self.level = level

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits ``[B, num_classes, h, w]`` of the level."""
        return self.layers(features[self.level])


class TwoLevelHead(nn.Module):
    """LR-ASPP of MobileNetV3 (Howard et al. 2019, arXiv 1905.02244, section 6.4): a low and a high feature map.

    Args:
        head: torchvision's ``LRASPPHead``.
        low: Index of the finer map.
        high: Index of the coarser one.
    """

    def __init__(self, head: LRASPPHead, low: int, high: int) -> None:
        super().__init__()
        self.head = head
        self.low = low
        self.high = high

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits ``[B, num_classes, h, w]`` at the resolution of the finer map."""
        return self.head({"low": features[self.low], "high": features[self.high]})


def _conv_norm_act(in_channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


def build_fcn(
    features: Features, num_classes: int, channels: int | None = None, in_index: int | None = None, dropout: float = 0.1
) -> nn.Module:
    """FCN head as in torchvision (Long et al. 2015, arXiv 1411.4038).

    Args:
        features: Of the backbone.
        num_classes: Number of classes.
        channels: Width of the 3x3 convolution; a quarter of its input by default.
        in_index: Level of the feature map; by default the last (an auxiliary head: the last but one).
        dropout: Before the classifier.
    """
    level = features.check_level(features.default_level if in_index is None else in_index, "in_index of fcn")
    in_channels = features.channels[level]
    width = max(1, in_channels // 4) if channels is None else channels
    layers = [*_conv_norm_act(in_channels, width), nn.Dropout(dropout), nn.Conv2d(width, num_classes, 1)]
    return OneLevelHead(nn.Sequential(*layers), level)


def build_deeplabv3(
    features: Features,
    num_classes: int,
    channels: int = 256,
    atrous_rates: Sequence[int] = (12, 24, 36),
    in_index: int | None = None,
) -> nn.Module:
    """DeepLabV3 head as in torchvision (Chen et al. 2017, arXiv 1706.05587, section 3.3).

    Args:
        features: Of the backbone.
        num_classes: Number of classes.
        channels: Width of every branch and of the convolution behind them.
        atrous_rates: Dilations of the 3x3 branches. 12, 24, 36 fits an output stride of 8; halve them for 16.
        in_index: Level of the feature map; the last by default.
    """
    level = features.check_level(features.default_level if in_index is None else in_index, "in_index of deeplabv3")
    pyramid = ASPP(features.channels[level], list(atrous_rates), channels)
    layers = [pyramid, *_conv_norm_act(channels, channels), nn.Conv2d(channels, num_classes, 1)]
    return OneLevelHead(nn.Sequential(*layers), level)


def build_lraspp(
    features: Features,
    num_classes: int,
    channels: int = 128,
    low_index: int | None = None,
    high_index: int | None = None,
) -> nn.Module:
    """LR-ASPP head as in torchvision.

    Args:
        features: Of the backbone.
        num_classes: Number of classes.
        channels: Width of the branch on the coarse map.
        low_index: Level of the finer map; by default the one with a reduction of 8, as in the paper, or else the one
            before the coarse map.
        high_index: Level of the coarser map; the last by default.

    Raises:
        ValueError: If the backbone has a single level.
    """
    high = features.check_level(-1 if high_index is None else high_index, "high_index of lraspp")
    count = len(features.channels)
    if low_index is None:
        finer = range(high % count)
        if not finer:
            raise ValueError("lraspp needs two feature maps and the backbone has one; use another head")
        low_index = next((level for level in finer if features.reduction[level] == 8), finer[-1])
    low = features.check_level(low_index, "low_index of lraspp")
    head = LRASPPHead(features.channels[low], features.channels[high], num_classes, channels)
    return TwoLevelHead(head, low, high)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "deeplabv3": build_deeplabv3,
    "fcn": build_fcn,
    "lraspp": build_lraspp,
}
_REGISTRY = Registry(
    "segmentation head", _BUILDERS, ("head", "aux_head"), lambda name: "by mmseg" if name in MMSEG_HEADS else None
)
Head = TypeVar("Head", bound=Callable[..., nn.Module])


def register_segmentation_head(name: str) -> Callable[[Head], Head]:
    """Decorator that gives a segmentation head a name.

    Args:
        name: The name for ``head`` and ``aux_head``.

    What is decorated is a subclass of ``torch.nn.Module``, which gets ``in_channels`` (a list, one entry per feature
    map, finest first) and ``num_classes`` as far as it takes them, or a function ``(features, num_classes, ...)`` like
    :func:`build_fcn`. The module maps the list of feature maps to logits ``[B, num_classes, h, w]``.

    Raises:
        ValueError: If the name is no word, or taken.
        TypeError: If what is registered is neither.
    """

    def check(head: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if not callable(head) or (isinstance(head, type) and not issubclass(head, nn.Module)):
            raise TypeError(f"segmentation head {name!r}: expected a subclass of torch.nn.Module, or a function")
        return head

    return _REGISTRY.decorator(name, check)


def list_segmentation_heads() -> list[str]:
    """Names of the heads: torchvision's, own ones, and mmseg's types (which need the extra ``dyvision[mmseg]``)."""
    return _REGISTRY.names() + sorted(MMSEG_HEADS)


def resolve_head(spec: ComponentSpec, argument: str = "head") -> Component:
    """Take a head argument apart; the name of an mmseg head counts as its type.

    Raises:
        ValueError: If there is no head of that name, with the closest ones, or an argument of it is wrong.
    """
    head = parse_component(spec, argument)
    if head.kind == "name" and head.name in MMSEG_HEADS:
        return Component("type", head.name, head.arguments)
    if head.kind == "name":
        if _REGISTRY.find(head.name) is None:
            choose(head.name, [*_BUILDERS, *MMSEG_HEADS], argument)
        check_arguments(_BUILDERS[head.name], head.arguments, f"{argument} {head.name!r}")
        check_head_arguments(head.arguments, f"{argument} {head.name!r}")
    return head


def default_output_stride(spec: ComponentSpec) -> int:
    """32 for heads that fuse several levels, and for own ones, 16 for those that read a dilated last one."""
    head = resolve_head(spec)
    own = head.kind == "class_path" or head.name in _REGISTRY.foreign()
    return 32 if own or (head.kind == "type" and is_multi_level(head.name)) else 16


def create_segmentation_head(
    spec: ComponentSpec, feature_info: Any, num_classes: int, auxiliary: bool = False
) -> nn.Module:
    """Build a head.

    Args:
        spec: ``"fcn"``, ``"deeplabv3"``, ``"lraspp"`` or the type of an mmseg head; or a dict with ``name``, ``type``
            or ``class_path`` and arguments. A class by path gets ``in_channels`` (a list) and ``num_classes``.
        feature_info: timm's, of the backbone.
        num_classes: Number of classes.
        auxiliary: Whether it is the auxiliary head: then a head with one input reads the last level but one.

    Returns:
        A module from the list of feature maps to logits ``[B, num_classes, h, w]``, of any resolution.

    Raises:
        ValueError: For an unknown head or argument, or one that does not fit the backbone.
        ImportError: If it is a head of mmseg and that is not installed.
    """
    argument = "aux_head" if auxiliary else "head"
    head = resolve_head(spec, argument)
    channels, reduction = tuple(feature_info.channels()), tuple(feature_info.reduction())
    features = Features(channels, reduction, default_level=-2 if auxiliary and len(channels) > 1 else -1)
    if head.kind == "type":
        module = build_mmseg_head(head.name, head.arguments, channels, reduction, features.default_level, num_classes)
    elif head.kind == "name":
        build = _BUILDERS[head.name]
        try:
            if isinstance(build, type):
                module = _build_class(build, head, features, num_classes, argument)
            else:
                module = build(features, num_classes, **head.arguments)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{argument} {head.name!r}: {error}") from error
    else:
        head_class = import_object(head.name, argument, nn.Module)
        module = _build_class(head_class, head, features, num_classes, argument)
    module = guard_batch_norms(module)
    check_output(module, channels, num_classes, f"{argument} {head.name!r}")
    return module


def _build_class(head_class: Any, head: Component, features: Features, num_classes: int, argument: str) -> nn.Module:
    names, anything = accepted_arguments(head_class)
    filled: Mapping[str, Any] = {"in_channels": list(features.channels), "num_classes": num_classes}
    arguments = {name: value for name, value in filled.items() if anything or name in names} | head.arguments
    check_arguments(head_class, arguments, f"{argument} {head.name!r}")
    built: nn.Module = head_class(**arguments)
    return built
