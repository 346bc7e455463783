"""From a name to a classifier or a backbone, static or dynamic: one code path for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, cast

import timm
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from dyvision.backbones._initial_weights import finish_weights, published, read_weights, take_static
from dyvision.backbones.classifier import check_dynamic_classifier, replace_classifier
from dyvision.backbones.dilation import dilate_stages
from dyvision.backbones.features import Backbone
from dyvision.backbones.keywords import layer_keywords
from dyvision.backbones.recorded import records_arguments
from dyvision.backbones.registry import find_builder
from dyvision.backbones.weights import plain_weights
from dyvision.convert.dynamize import dynamize
from dyvision.convert.inflate import Taken
from dyvision.convert.policies import Policy
from dyvision.convert.state_dicts import StateDict
from dyvision.text import first_line

_OUTPUT_STRIDES = (8, 16, 32)


@records_arguments
def create_model(
    name: str,
    layer: str = "static",
    num_classes: int = 1000,
    *,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    pretrained: bool | str | PathLike[str] = False,
    policy: Policy | None = None,
    layer_kwargs: Mapping[str, Any] | None = None,
    preserve_outputs: bool | None = None,
    dynamic_classifier: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **layer_arguments: Any,
) -> nn.Module:
    """Create a classifier with logits ``[B, num_classes]``.

    Args:
        name: A name of :func:`dyvision.list_backbones`, or any other that ``timm.create_model`` knows.
        layer: A name of :func:`dyvision.list_layers`; ``"static"`` is the ordinary network.
        num_classes: Outputs of the classifier; 0 gives pooled features.
        in_chans: Channels of the input.
        drop_rate: Dropout before the classifier, in [0, 1).
        drop_path_rate: Stochastic depth of the last block, in [0, 1), for networks that have it.
        pretrained: True downloads the published weights; a path loads a file (``.safetensors`` or a state dict). Input
            channels are adapted and a classifier of another size is left out, as in timm.
        policy: Which convolutions become dynamic; see :func:`dyvision.dynamize`.
        layer_kwargs: The layer's own arguments.
        preserve_outputs: Whether the dynamic network starts out computing what the static one does. By default it does
            when the weights are pretrained; from scratch the layers have their method's own initialisation.
        dynamic_classifier: Whether the classifier is dynamic too, as in the networks published with DCD and CondConv.
        model_kwargs: Further arguments for timm's (or the registered network's) constructor.
        **layer_arguments: The same as ``layer_kwargs``: ``create_model("resnet18", "dyconv", num_kernels=4)``.

    Raises:
        ValueError: For an unknown name, layer or policy (with the closest names), an argument out of range or one that
            the network does not support, or weights that do not fit.

    Example:
        >>> import dyvision
        >>> model = dyvision.create_model("mobilenetv2_035", layer="dcd", num_classes=10)
    """
    layer_kwargs = layer_keywords(create_model, layer, _mapping("layer_kwargs", layer_kwargs), layer_arguments)
    _check_count("num_classes", num_classes, 0)
    if dynamic_classifier:
        check_dynamic_classifier(layer, num_classes)
    arguments = {
        **_mapping("model_kwargs", model_kwargs),
        **({"drop_rate": _rate("drop_rate", drop_rate)} if drop_rate else {}),
    }
    weights = read_weights(pretrained)
    model, taken = _build(name, num_classes, in_chans, drop_path_rate, pretrained, weights, arguments)
    if not pretrained:
        _start_classifier(model)
    preserve = taken is not None if preserve_outputs is None else preserve_outputs
    model = dynamize(model, layer, policy=policy, preserve_outputs=preserve, **layer_kwargs)
    model = replace_classifier(model, layer, preserve, layer_kwargs) if dynamic_classifier else model
    finish_weights(model, name, pretrained, weights, taken, preserve)
    return model


@records_arguments
def create_backbone(
    name: str,
    layer: str = "static",
    out_indices: int | Sequence[int] | str | None = None,
    output_stride: int = 32,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    pretrained: bool | str | PathLike[str] = False,
    policy: Policy | None = None,
    layer_kwargs: Mapping[str, Any] | None = None,
    preserve_outputs: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **layer_arguments: Any,
) -> Backbone:
    """Create a backbone: a network that returns a list of feature maps.

    Args:
        name: A name of :func:`dyvision.list_backbones`, or any other that ``timm.create_model`` knows.
        layer: A name of :func:`dyvision.list_layers`; ``"static"`` is the ordinary network.
        out_indices: Levels to return; negative ones count from the end, an int means the last so many, None all levels
            with a reduction of at least 4, ``"all"`` all of them.
        output_stride: Reduction of the last level: 32, 16 or 8. Stages that would exceed it keep their resolution and
            are dilated instead, dynamic layers included.
        in_chans: Channels of the input.
        drop_path_rate: Stochastic depth of the last block, in [0, 1), for networks that have it.
        pretrained: True downloads the published weights of the classifier; a path loads a file of such weights.
        policy: Which convolutions become dynamic; see :func:`dyvision.dynamize`. It selects in the complete classifier,
            so a backbone has the layers that the classifier has.
        layer_kwargs: The layer's own arguments.
        preserve_outputs: Whether the dynamic network starts out computing what the static one does; by default if
            ``pretrained``.
        model_kwargs: Further arguments for timm's (or the registered network's) constructor.
        **layer_arguments: The same as ``layer_kwargs``.

    Returns:
        The backbone, with ``body``, ``feature_info`` and ``out_indices``; see :class:`dyvision.backbones.Backbone`.

    Raises:
        ValueError: As for :func:`create_model`, or if a level or an output stride does not exist.

    Example:
        >>> import dyvision
        >>> backbone = dyvision.create_backbone("mobilenetv2_035", layer="dcd", output_stride=16)
        >>> backbone.feature_info.reduction()
        [4, 8, 16, 16]
    """
    layer_kwargs = layer_keywords(create_backbone, layer, _mapping("layer_kwargs", layer_kwargs), layer_arguments)
    if output_stride not in _OUTPUT_STRIDES:
        raise ValueError(f"output_stride must be 8, 16 or 32, not {output_stride!r}")
    arguments = {
        **_mapping("model_kwargs", model_kwargs),
        **({"output_stride": output_stride} if output_stride != 32 else {}),
    }
    weights = read_weights(pretrained)
    body, taken = _build(name, 0, in_chans, drop_path_rate, pretrained, weights, arguments)
    preserve = taken is not None if preserve_outputs is None else preserve_outputs
    body = dynamize(
        body,
        layer,
        policy=policy,
        preserve_outputs=preserve,
        **layer_kwargs,
    )
    backbone = Backbone(body, out_indices, name)
    report = finish_weights(body, name, pretrained, weights, taken, preserve, backbone._pruned)
    if report is not None:
        backbone.pretrained_report = report  # type: ignore[assignment]
    if max(level["reduction"] for level in backbone.feature_info.info) > output_stride != 32:
        raise ValueError(f"{name} cannot be dilated: output_stride={output_stride} is not possible, use 32")
    return backbone


def _build(
    name: str,
    num_classes: int,
    in_chans: int,
    drop_path_rate: float,
    pretrained: bool | str | PathLike[str],
    weights: StateDict | None,
    arguments: dict[str, Any],
) -> tuple[nn.Module, Taken | None]:
    builder = find_builder(name)
    _check_count("in_chans", in_chans, 1)
    if drop_path_rate:
        arguments["drop_path_rate"] = _rate("drop_path_rate", drop_path_rate)
    common = {"num_classes": num_classes, "in_chans": in_chans, "pretrained": pretrained is True}
    construct = builder or partial(timm.create_model, name)
    try:
        with plain_weights(name):
            model = _construct(construct, {**common, **arguments})
    # networks reject what they do not support in many ways
    except (TypeError, AssertionError, NotImplementedError, LookupError, AttributeError, ArithmeticError) as error:
        if not arguments:
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(f"{name} does not support {given} ({first_line(error)})") from error
    except (OSError, RuntimeError) as error:
        if pretrained is not True:
            raise
        raise ValueError(
            f"no pretrained weights for {name} ({first_line(error)}); give --model.pretrained false, or "
            "--model.pretrained FILE (in Python pretrained=False or the path of a file)"
        ) from error
    if pretrained is False:
        return model, None
    return model, published(model, num_classes) if weights is None else take_static(model, weights, name, pretrained)


def _construct(construct: Callable[..., nn.Module], arguments: dict[str, Any]) -> nn.Module:
    try:
        return construct(**arguments)
    except TypeError:
        # timm dilates MobileNetV3 and V4 only as features_only networks, whose parameters have other names
        rest = {key: value for key, value in arguments.items() if key != "output_stride"}
        if rest == arguments:
            raise
        model = construct(**rest)
        if not isinstance(model, MobileNetV3):
            raise
        stages = [(f"blocks.{index}", stage) for index, stage in model.blocks.named_children()]
        dilate_stages(stages, 2, arguments["output_stride"], model.feature_info)
        return model


def _start_classifier(model: nn.Module) -> None:
    """N(0, 0.01) for the last linear layer, as torchvision's MobileNets.

    Some of timm's networks scale it with 1/sqrt(classes): with few classes, the first loss is several times chance.
    """
    classifier = cast(Any, model).get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(classifier, nn.Linear):
        nn.init.normal_(classifier.weight, std=0.01)
        if classifier.bias is not None:
            nn.init.zeros_(classifier.bias)


def _check_count(argument: str, value: int, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{argument} must be an integer of at least {lowest}, not {value!r}")


def _mapping(argument: str, value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{argument} must be a mapping from names to values, not {value!r}")
    return value or {}


def _rate(argument: str, value: float) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{argument} must be in [0, 1), not {value!r}")
    return value
