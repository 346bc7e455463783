"""Weights from files and other networks, matched by name; a misfit is one sentence, not a page of keys."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from dyvision.backbones.features import Backbone
from dyvision.convert.matching import describe_misfit, match
from dyvision.convert.state_dicts import Source, read_state_dict
from dyvision.tensor_kinds import check_kinds

__all__ = ("LoadReport", "Source", "load_backbone_weights", "plain_weights", "read_state_dict")

#: makes every torch.load one of plain data
_PLAIN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_backbone_weights` did.

    Attributes:
        loaded: Number of tensors loaded.
        skipped: Names in the source that were not used (heads, pruned levels, optimiser copies).
        fresh: Names of the classifier's tensors that keep their initialisation, because it has other classes.
        prefix: What stands before the network's names in the source.
    """

    loaded: int
    skipped: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    prefix: str = ""


def load_backbone_weights(backbone: Backbone, source: Source, *, where: str | None = None) -> LoadReport:
    """Load the weights of a classifier, a backbone or a trained task into a backbone.

    Args:
        backbone: The backbone to fill, in place.
        source: A state dict or a path to one (``.safetensors``, or anything ``torch.load(weights_only=True)`` reads,
            Lightning checkpoints included). Names may carry any prefix (``model.``, ``backbone.body.``, ``module.``).
            Heads and levels that the backbone does not have are skipped.
        where: The file that a state dict was read from, for messages.

    Returns:
        How many tensors were loaded and which were skipped.

    Raises:
        ValueError: If the file cannot be read, the architecture differs, or a tensor holds another kind of numbers;
            nothing is loaded then.
    """
    what = where or ("the given state dict" if isinstance(source, Mapping) else str(source))
    fit = match(backbone.body.state_dict(), read_state_dict(source), backbone._pruned)
    if not fit.complete:
        raise ValueError(describe_misfit(backbone.body, fit, what))
    check_kinds(fit.tensors, backbone.body.state_dict(), what)
    backbone.body.load_state_dict(fit.tensors, strict=False)
    return LoadReport(len(fit.tensors), tuple(fit.skipped), prefix=fit.prefix)


@contextmanager
def plain_weights(name: str) -> Iterator[None]:
    """While timm builds a network, files of weights are read as plain data only, whichever way it was told of them.

    A folder (``local-dir:``), ``pretrained_cfg`` and ``checkpoint_path`` lead to calls of ``torch.load`` that timm made
    with ``weights_only=False`` in some versions; PyTorch's environment variable overrules them.

    Raises:
        ValueError: If a file holds more than that.
    """
    before = os.environ.get(_PLAIN)
    os.environ[_PLAIN] = "1"
    try:
        yield
    except (pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "weights_only" not in str(error):
            raise
        raise ValueError(
            f"the weights file of {name} holds objects besides tensors; loading them could run code, so it is refused. "
            "Save the state dict alone, or as .safetensors"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_PLAIN, None)
        else:
            os.environ[_PLAIN] = before
