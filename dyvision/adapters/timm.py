"""timm: ``import dyvision.adapters.timm`` registers every network with every layer as ``dyvision_NETWORK_LAYER``.

``timm.create_model("dyvision_resnet18_dcd", features_only=True)`` works then, and with it whatever takes timm's names:
segmentation_models_pytorch (``tu-dyvision_resnet18_dcd``), transformers (``TimmBackbone``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import timm
from timm.models import (
    DefaultCfg,
    PretrainedCfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    load_pretrained,
    register_model,
)
from torch import nn

from dyvision.adapters import _timm_models
from dyvision.adapters._names import is_published, join_name, split_name
from dyvision.backbones import Backbone, create_backbone, create_model, list_backbones
from dyvision.layers import DynamicConv2d, get_layer, list_layers
from dyvision.layers.arguments import own_arguments
from dyvision.text import similar_names, suggestion

__all__ = ("register",)

#: arguments of dyvision's functions, of both, of ``create_model`` and of ``create_backbone``
_BOTH = frozenset({"in_chans", "drop_path_rate", "policy", "preserve_outputs", "layer_kwargs", "model_kwargs"})
_CLASSIFIER = frozenset({"num_classes", "drop_rate", "dynamic_classifier"})
_FEATURES = frozenset({"out_indices", "output_stride"})
#: arguments of timm's networks that a layer has, too: for the layer they are given as layer_kwargs={...}
_NETWORK = frozenset({"act_layer", "norm_layer"})
#: said of weights; read by timm when it builds the static network
_WEIGHTS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def register(*names: str) -> list[str]:
    """Register names with timm; what is registered already stays.

    Importing this module registers all networks of ``dyvision.list_backbones()`` with all layers that there are. A
    layer or a network of your own that was registered later is added by calling this again, any other network of timm
    by its name: ``register("dyvision_regnety_064_dcd")``.

    Args:
        *names: ``dyvision_NETWORK_LAYER``; none for all of dyvision's.

    Returns:
        The names, as ``timm.create_model`` takes them.

    Raises:
        ValueError: If a network or a layer does not exist; the message gives the closest names.
    """
    wanted = {name: split_name(name) for name in names} if names else _all_names()
    known = []
    for name, (network, layer) in wanted.items():
        # what is written with "-" in a name stands there as "_"
        name = join_name(name).removeprefix("dyvision_") if names else name
        known.append(name)
        if not timm.is_model(name):
            cfg = _default_cfg(network)
            if cfg is not None:
                _timm_models.default_cfgs[name] = cfg
            register_model(_entry_point(name, network, layer))
    return known


def _all_names() -> dict[str, tuple[str, str]]:
    names = {}
    for network in list_backbones():
        if is_published(network):  # with layers of its own
            names[join_name(network)] = network, "static"
        else:
            names |= {join_name(network, layer): (network, layer) for layer in list_layers()}
    return names


@functools.cache
def _default_cfg(network: str) -> DefaultCfg | None:
    """The weights that timm has for a network: its dynamic versions start from them."""
    return generate_default_cfgs(dict(get_arch_pretrained_cfgs(network))).get(network)


def _entry_point(name: str, network: str, layer: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **arguments: Any) -> nn.Module:
        try:
            return _create(name, network, layer, pretrained, dict(arguments))
        except ValueError as error:  # of the network, which does not know what its layer would have taken
            known = {*_own(layer), *_BOTH, *_CLASSIFIER, *_FEATURES, "features_only", "pretrained"}
            wrong = [key for key in arguments if f"unexpected keyword argument {key!r}" in str(error)]
            close = [match for key in wrong for match in similar_names(key, known - {key}, 1)]
            if close:
                raise ValueError(f"{error}{suggestion(close)}") from error
            raise

    create.__name__ = create.__qualname__ = name
    create.__module__ = _timm_models.__name__
    setattr(_timm_models, name, create)
    return create


def _create(name: str, network: str, layer: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    features = arguments.pop("features_only", False)
    arguments.pop("pretrained_model_args", None)  # of the config that timm read; they are among the arguments, too
    weights = {key: value for key in _WEIGHTS if (value := arguments.pop(key, None)) is not None}
    own = weights.pop("pretrained_cfg") if _is_saved(weights.get("pretrained_cfg")) else None
    given = _sort_out(layer, arguments)
    if own is None and timm.is_model(network):
        given["model_kwargs"] = {**weights, **given["model_kwargs"]}
    classifier = {key: given.pop(key) for key in _CLASSIFIER & {*given}}
    levels = given.pop("out_indices", "all")
    if features and own is None:
        model: nn.Module = create_backbone(network, layer, out_indices=levels, pretrained=pretrained, **given)
        body: Any = model.body
    else:
        if (stride := given.pop("output_stride", 32)) != 32:
            given["model_kwargs"] = {"output_stride": stride, **given["model_kwargs"]}
        model = body = create_model(network, layer, pretrained=pretrained and own is None, **classifier, **given)
        if pretrained and own is not None:
            classes = 0 if features else body.num_classes
            load_pretrained(body, dict(own), num_classes=classes, in_chans=given.get("in_chans", 3))
        model = Backbone(body, levels, network) if features else body
    # what timm's data configs and its files for the hub are made of
    cfg = {
        **PretrainedCfg(**(own or {})).to_dict(),
        **(getattr(body, "pretrained_cfg", None) or {}),
        "architecture": name,
    }
    if features:
        cfg = {key: value for key, value in cfg.items() if key not in ("num_classes", "classifier", "global_pool")}
    model.pretrained_cfg = model.default_cfg = cfg  # type: ignore[assignment]
    return model


def _is_saved(cfg: Any) -> bool:
    """Whether weights are those of the dynamic network (``timm.models.save_for_hf``), not of the static one.

    timm notes where it read a config (``hf-hub:``, ``local-dir:``), which then belongs to a network of this name.
    """
    return isinstance(cfg, dict) and cfg.get("source") in ("hf-hub", "local-dir")


def _own(layer: str) -> set[str]:
    """The layer's own arguments, as far as they are not the network's."""
    return set(own_arguments(get_layer(layer), DynamicConv2d)) - _NETWORK if layer != "static" else set()


def _sort_out(layer: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Whose arguments they are: those of dyvision's functions, the layer's own, or else the network's."""
    given: dict[str, Any] = {"layer_kwargs": {}, "model_kwargs": {}}
    own = _own(layer)
    for key, value in arguments.items():
        if key in ("layer_kwargs", "model_kwargs"):
            given[key] |= value
        elif key in _BOTH | _CLASSIFIER | _FEATURES:
            given[key] = value
        else:
            given["layer_kwargs" if key in own else "model_kwargs"][key] = value
    return given


register()
