"""The weights that a network starts from: published ones, or a file's, static or of the same dynamic layers."""

from __future__ import annotations

from os import PathLike

from torch import nn

from dyvision.backbones._closest import closest_network
from dyvision.convert.inflate import Taken, take_weights
from dyvision.convert.matching import is_dynamic
from dyvision.convert.pretrained_report import PretrainedReport, report_pretrained
from dyvision.convert.renaming import names_in
from dyvision.convert.state_dicts import StateDict, read_state_dict
from dyvision.text import printable

Pretrained = bool | str | PathLike[str]


def read_weights(pretrained: Pretrained) -> StateDict | None:
    """The tensors of a file; None if there is none."""
    return None if isinstance(pretrained, bool) else read_state_dict(pretrained)


def published(model: nn.Module, num_classes: int) -> Taken:
    """What the published weights gave to a network that timm has built with them."""
    names = tuple(model.state_dict())
    config = getattr(model, "pretrained_cfg", None) or {}
    head = tuple(f"{part}." for part in names_in(config, "classifier"))
    resized = config.get("num_classes") not in (None, num_classes)
    return Taken(names, tuple(name for name in names if resized and name.startswith(head)), (), True)


def take_static(model: nn.Module, weights: StateDict, name: str, pretrained: Pretrained) -> Taken | None:
    """Load a file before the network becomes dynamic; nothing yet if it has dynamic layers that this one has not.

    Raises:
        ValueError: If it does not fit, with the network that it is of.
    """
    if not is_dynamic(weights):
        return _take(model, weights, name, pretrained)
    try:  # a published network has dynamic layers of its own, and one of the user's may call a part of it a branch
        return take_weights(model, weights, str(pretrained))
    except ValueError:
        return None


def finish_weights(
    model: nn.Module,
    name: str,
    pretrained: Pretrained,
    weights: StateDict | None,
    taken: Taken | None,
    preserve: bool,
    pruned: frozenset[str] = frozenset(),
) -> PretrainedReport | None:
    """Load weights of the same dynamic layers into them, and report what the network has of its weights.

    Args:
        model: The network as it is used.
        name: Its name.
        pretrained: What was asked for.
        weights: The tensors of a file.
        taken: What the static network has taken.
        preserve: Whether its dynamic layers start from that.
        pruned: Names that the network had before levels were cut off.

    Raises:
        ValueError: If the file's dynamic layers are not the network's.
    """
    if weights is not None and taken is None:
        taken = _take(model, weights, name, pretrained)
    if taken is None:
        return None
    skipped = [key for key in taken.skipped if key not in pruned]
    return report_pretrained(
        model, name, pretrained, taken.names, taken.fresh, skipped, preserve or is_dynamic(taken.names)
    )


def _take(model: nn.Module, weights: StateDict, name: str, pretrained: Pretrained) -> Taken:
    try:
        return take_weights(model, weights, str(pretrained))
    except ValueError as error:
        made = weights.made_with
        other = made.get("backbone") or closest_network(weights)
        if isinstance(other, str) and other != name:
            raise ValueError(f"{error}; its tensors are those of {printable(other)}, not of {name}") from error
        if isinstance(made.get("layer"), str):
            options = [f"{key}={made[key]!r}" for key in ("layer", "policy", "layer_kwargs") if made.get(key)]
            raise ValueError(f"{error}; the file was made with {printable(', '.join(options))}") from error
        raise
