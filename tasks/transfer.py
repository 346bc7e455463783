"""Weights of a trained task for a new classifier."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from os import PathLike
from typing import Any

from torch import Tensor, nn

from dyvision.backbones import Backbone, load_backbone_weights
from dyvision.backbones.weights import read_state_dict
from dyvision.tensor_kinds import check_kinds
from dyvision.text import printable, some

_LOGGER = logging.getLogger("dyvision.tasks")


def load_classifier_weights(model: nn.Module, source: str | PathLike[str]) -> None:
    """Load everything but the last layer into a classifier, in place.

    What lies between the feature maps and the classifier (MobileNet's last 1x1 convolution) is taken over where the
    source has it: checkpoints of segmentation and detection do not.

    Args:
        model: A classifier of :func:`dyvision.create_model`.
        source: Checkpoint of a task, or a file that :func:`dyvision.load_backbone_weights` reads.

    Raises:
        ValueError: If the file cannot be read or the backbone differs.
    """
    state = read_state_dict(source)
    backbone = Backbone(deepcopy(model))
    prefix = load_backbone_weights(backbone, state, where=str(source)).prefix
    loaded = backbone.body.state_dict()
    classifier = model.get_classifier()  # type: ignore[operator]
    last = {id(parameter) for parameter in classifier.parameters()} if isinstance(classifier, nn.Module) else set()
    ends = {name for name, parameter in model.named_parameters() if id(parameter) in last}
    for name, tensor in model.state_dict().items():
        found = state.get(prefix + name)
        if name not in loaded and name not in ends and found is not None and found.shape == tensor.shape:
            loaded[name] = found
    check_kinds(loaded, model.state_dict(), str(source))
    model.load_state_dict(loaded, strict=False)
    unused = [name for name in state if name.removeprefix(prefix) not in loaded]
    tell_weights(source, len(loaded), unused)


def tell_weights(source: object, loaded: int, skipped: Sequence[str]) -> None:
    """Log how many tensors of a file of weights a network took over, and which it did not."""
    rest = f"; {len(skipped)} of the file not used: {some(sorted(skipped), 3)}" if skipped else ""
    _LOGGER.info("%s", printable(f"{source}: {loaded} tensors taken over{rest}"))


def compare_weights(given: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> str:
    """How weights differ from those of a network: how many, and the first of them.

    Args:
        given: Tensors by name.
        wanted: The network's own.

    Returns:
        A clause such as ``"lacks 3 of 60 weights (head.weight and 2 more)"``; empty if nothing differs.
    """
    other = [
        f"{name}: {list(given[name].shape)} and not {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = (
        ([name for name in wanted if name not in given], f"lacks {{}} of {len(wanted)} weights"),
        ([name for name in given if name not in wanted], "has {} of other names"),
        (other, "has {} of another shape"),
    )
    return ", ".join(f"{words.format(len(names))} ({some(names, 1)})" for names, words in kinds if names)
