"""The dynamic classifiers of DCD and CondConv in place of a network's last linear layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from dyvision.layers.classifier import DynamicClassifier, condconv_classifier, dcd_classifier

#: by layer: the classifier, which of the layer's arguments it takes, and whether it has a bias in the published network
_CLASSIFIERS: dict[str, tuple[Callable[..., DynamicClassifier], tuple[str, ...], bool]] = {
    "condconv": (condconv_classifier, ("num_kernels",), False),
    "dcd": (dcd_classifier, (), True),
}


def check_dynamic_classifier(layer: str, num_classes: int) -> None:
    """Check that a method has a dynamic classifier.

    Raises:
        ValueError: If it has none, or the network has no classifier.
    """
    if layer not in _CLASSIFIERS:
        raise ValueError(
            f"dynamic_classifier=True: layer {layer!r} has no dynamic classifier, only {', '.join(_CLASSIFIERS)} have"
        )
    if num_classes < 1:
        raise ValueError(
            f"dynamic_classifier=True needs a classifier: num_classes must be at least 1, not {num_classes}"
        )


def replace_classifier(
    model: nn.Module, layer: str, preserve_outputs: bool = False, layer_kwargs: Mapping[str, Any] | None = None
) -> nn.Module:
    """Replace the last linear layer of a network by the method's dynamic classifier, in place.

    Args:
        model: A network with timm's ``get_classifier``.
        layer: ``"condconv"`` or ``"dcd"``.
        preserve_outputs: Start from the linear layer's weights such that the network computes what it computed before.
            CondConv's classifier then keeps the bias, which it does not have otherwise.
        layer_kwargs: Arguments of the network's layers; those that the classifier knows apply to it.

    Returns:
        The model; the classifier keeps its name, device, type and training mode.

    Raises:
        ValueError: If the method has no dynamic classifier, or the network no linear one.
    """
    linear = cast(Any, model).get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(linear, nn.Linear):
        found = "no get_classifier()" if linear is None else f"a {type(linear).__name__}"
        raise ValueError(
            f"dynamic_classifier=True replaces a linear classifier, but {type(model).__name__} has {found}"
        )
    check_dynamic_classifier(layer, linear.out_features)
    build, accepted, has_bias = _CLASSIFIERS[layer]
    arguments = {name: value for name, value in (layer_kwargs or {}).items() if name in accepted}
    classifier = build(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None and (has_bias or preserve_outputs),
        device=linear.weight.device,
        dtype=linear.weight.dtype,
        **arguments,
    )
    if preserve_outputs:
        with torch.no_grad():
            classifier.conv.load_static(linear.weight[:, :, None, None], linear.bias)
    name = next(name for name, module in model.named_modules() if module is linear)
    model.set_submodule(name, classifier.train(linear.training))
    return model
