"""How the tensors of a file compare with those of a network, and a misfit as one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dyvision.layers import CoefficientBranch, DynamicConv2d, get_layer, list_layers
from dyvision.text import some

#: what BatchNorm counts its steps in; old checkpoints lack it
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Fit:
    """How the tensors of a source compare with those of a network."""

    tensors: dict[str, torch.Tensor]
    missing: list[str]
    reshaped: list[str]
    unexpected: list[str]
    skipped: list[str]
    prefix: str

    @property
    def complete(self) -> bool:
        """Whether every tensor of the network has its counterpart."""
        return not (self.missing or self.reshaped or self.unexpected)


def match(
    target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor], pruned: frozenset[str] = frozenset()
) -> Fit:
    """Compare the tensors of a source, whatever stands before its names, with those of a network.

    Args:
        target: The network's own tensors, of which only the shapes count.
        source: Tensors by name.
        pruned: Names that the network had before levels were cut off; the source may have them.
    """
    prefix = find_prefix(target, source)
    renamed = {key[len(prefix) :]: value for key, value in source.items() if key.startswith(prefix)}
    tensors = {key: value for key, value in renamed.items() if key in target}
    reshaped = [key for key, value in tensors.items() if value.shape != target[key].shape]
    missing = [key for key in target if key not in tensors and not key.endswith(COUNTER)]
    roots = {key.split(".")[0] for key in target}
    unexpected = [key for key in renamed if key not in target and key not in pruned and key.split(".")[0] in roots]
    foreign = set(unexpected)
    skipped = [
        key
        for key in source
        if not key.startswith(prefix) or (key[len(prefix) :] not in target and key[len(prefix) :] not in foreign)
    ]
    return Fit(tensors, missing, reshaped, unexpected, skipped, prefix)


def without_head(fit: Fit, head: tuple[str, ...]) -> Fit:
    """The same but for the classifier, whose size may differ."""

    def kept(keys: Sequence[str]) -> list[str]:
        return [key for key in keys if not key.startswith(head)]

    resized = {key for key in fit.reshaped if key.startswith(head)}
    tensors = {key: value for key, value in fit.tensors.items() if key not in resized}
    return Fit(tensors, kept(fit.missing), kept(fit.reshaped), kept(fit.unexpected), fit.skipped, fit.prefix)


def find_prefix(target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> str:
    """What stands before the network's names in the source: where most are found, and of equals the averaged ones."""
    votes: Counter[str] = Counter()
    for key in source:
        segments = key.split(".")
        for start in range(len(segments)):
            if ".".join(segments[start:]) in target:
                votes["".join(f"{segment}." for segment in segments[:start])] += 1

    def preference(prefix: str) -> tuple[int, bool, int]:
        return votes[prefix], "ema" in prefix.lower(), -len(prefix)  # averaged weights before those they are of

    return max(votes, key=preference) if votes else ""


def describe_misfit(model: nn.Module, fit: Fit, what: str, target: Mapping[str, torch.Tensor] | None = None) -> str:
    """One sentence on what does not fit, and what to do; ``what`` names the source, ``target`` what was wanted."""
    target = model.state_dict() if target is None else target
    dynamic = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, (DynamicConv2d, CoefficientBranch))
    )
    parts = []
    if fit.missing:
        parts.append(f"{len(fit.missing)} of {len(target)} tensors are missing ({some(fit.missing, 3)})")
    if fit.reshaped:
        first = fit.reshaped[0]
        shapes = f"{first}: {list(fit.tensors[first].shape)} instead of {list(target[first].shape)}"
        parts.append(f"{len(fit.reshaped)} have another shape ({shapes})")
    if fit.unexpected:
        parts.append(f"{len(fit.unexpected)} are unknown ({some(fit.unexpected, 3)})")
    layer = layer_of(fit.unexpected) if is_dynamic(fit.unexpected) else None
    if dynamic and not layer and all(key.startswith(dynamic) for key in [*fit.missing, *fit.reshaped, *fit.unexpected]):
        # the counts say nothing here: weights of a static network are converted by another option
        return (
            f"{what} fits this {type(model).__name__}, only its dynamic layers are missing ({len(fit.missing)} "
            "tensors): weights of a static network are given as --model.pretrained FILE (in Python "
            "pretrained=FILE), which converts them; others need the layer, policy and layer_kwargs of their training"
        )
    if layer and not dynamic:
        hint = f"the weights have dynamic layers ({layer}): create the backbone with the layer they were trained with"
    elif layer:
        hint = f"the weights have dynamic layers ({layer}): give the layer, policy and layer_kwargs of their training"
    else:
        hint = "check the backbone's name, in_chans, layer, policy and out_indices"
    return f"{what} does not fit this {type(model).__name__}: {', '.join(parts)}; {hint}"


def is_dynamic(names: Iterable[str]) -> bool:
    """Whether names of tensors are those of dynamic layers."""
    return any("coefficient_branch." in name or ".branch." in name for name in names)


def layer_of(names: Iterable[str]) -> str:
    """The registered layer whose tensors' names are closest to those given; as far as one can tell from names."""
    wanted = {_below_branch(name) for name in names if is_dynamic([name])}
    shares = {}
    for layer in list_layers():
        made = get_layer(layer)
        if issubclass(made, DynamicConv2d):
            try:
                own = made(16, 16, 3, padding=1, device="meta").state_dict()
            except Exception:  # a layer of the user's own may want anything
                continue
            found = {_below_branch(f".{name}") for name in own if is_dynamic([f".{name}"])}
            shares[layer] = len(found & wanted) / max(len(found | wanted), 1)
    best = max(shares.values(), default=0)
    return " or ".join(layer for layer, share in shares.items() if share == best and best > 0) or "of another kind"


def _below_branch(name: str) -> str:
    return name.rpartition("branch.")[2]
