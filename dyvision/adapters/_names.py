"""One name for a network and a layer, as frameworks that choose by name take it: ``dyvision_resnet18_dcd``."""

from __future__ import annotations

import re
from functools import partial

import timm

from dyvision.backbones import list_backbones
from dyvision.backbones.registry import find_builder
from dyvision.layers import list_layers
from dyvision.text import similar_names, suggestion

_PREFIX = "dyvision"


def join_name(network: str, layer: str = "") -> str:
    """The name of a network with a layer: letters, digits and ``_`` only, since others mean something to frameworks.

    Example:
        >>> join_name("resnet18", "dcd"), join_name("dy_resnet18")
        ('dyvision_resnet18_dcd', 'dyvision_dy_resnet18')
    """
    return "_".join(map(_plain, filter(None, (_PREFIX, network, layer))))


def split_name(name: str) -> tuple[str, str]:
    """The network and the layer of a name; ``-`` stands for ``_``, and a network alone is as it is.

    Raises:
        ValueError: If there is no such network or layer; the message gives the closest names.

    Example:
        >>> split_name("dyvision-mobilenetv2_100-dcd"), split_name("dyvision_dy_resnet18")
        (('mobilenetv2_100', 'dcd'), ('dy_resnet18', 'static'))
    """
    prefix, _, rest = _plain(name).partition("_")
    if prefix != _PREFIX or not rest:
        raise ValueError(f"{name!r} is not a name of dyvision's: they are dyvision_NETWORK_LAYER")
    networks = {_plain(network): network for network in list_backbones()}
    layers = {_plain(layer): layer for layer in list_layers()}
    cut = [(rest[: -len(layer) - 1], layer) for layer in layers if rest.endswith(f"_{layer}")]
    cut.sort(key=lambda pair: len(pair[0]))  # a layer "my_dcd" before "dcd"
    for network, layer in cut:
        if _exists(network, networks):
            return networks.get(network, network), layers[layer]
    if _exists(rest, networks):
        return networks.get(rest, rest), "static"
    raise ValueError(_unknown(name, rest, cut, networks, layers))


def is_published(network: str) -> bool:
    """Whether a network is a published one with dynamic layers of its own, which take no others."""
    builder = find_builder(network)
    function = builder.func if isinstance(builder, partial) else builder
    return getattr(function, "__module__", "").startswith("dyvision.backbones.published.")


def _plain(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "_", name)


def _exists(network: str, networks: dict[str, str]) -> bool:
    return network in networks or (timm.is_model(network) and not network.startswith(f"{_PREFIX}_"))


def _unknown(name: str, rest: str, cut: list[tuple[str, str]], networks: dict[str, str], layers: dict[str, str]) -> str:
    if cut:
        network, layer = cut[0]
        known = [*networks, *(other for other in timm.list_models() if not other.startswith(f"{_PREFIX}_"))]
        close = [join_name(other, layer) for other in similar_names(network, known)]
        return f"unknown network {network!r} in {name!r}{suggestion(close) or '; see dyvision.list_backbones()'}"
    # the longest network that the name begins with, or what stands before the last "_"
    parts = rest.split("_")
    starts = ["_".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    network = next((start for start in starts if _exists(start, networks)), "")
    if network:
        layer = rest[len(network) + 1 :]
        close = [join_name(network, other) for other in similar_names(layer, layers)]
        return f"unknown layer {layer!r} in {name!r}{suggestion(close)}; layers are {', '.join(layers.values())}"
    start, _, layer = rest.rpartition("_")
    pairs = [(a, b) for a in similar_names(start, networks) for b in similar_names(layer, layers, 1)]
    close = [join_name(*pair) for pair in pairs] or [join_name(network) for network in similar_names(rest, networks)]
    return f"unknown network and layer in {name!r}{suggestion(close) or '; names are dyvision_NETWORK_LAYER'}"
