"""How much of a network comes from pretrained weights, and what starts anew."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike

from torch import nn

from dyvision.layers import CoefficientBranch, DynamicConv2d
from dyvision.layers.classifier import DynamicClassifier
from dyvision.text import printable, some

_LOGGER = logging.getLogger("dyvision.backbones")


@dataclass(frozen=True)
class PretrainedReport:
    """What pretrained weights gave to a network; ``create_model`` leaves it as ``model.pretrained_report``.

    Attributes:
        network: Name of the network.
        source: The file, or "published weights".
        loaded: Number of tensors that come from the weights (kernels of dynamic layers start from them).
        branches: Names of new tensors in coefficient branches.
        classifier: Names of new tensors of the classifier, whose number of classes differs, and of what stands between
            it and the feature maps if the file ends with these.
        others: Names of other new tensors (low-rank parts, temperatures, counters).
        skipped: Names in the file that were not used; empty for published weights.
        kernels: Of what is loaded, the names of dynamic layers' kernels and biases, which start from static ones.
        norms: Of what is loaded, the names of norms.
    """

    network: str
    source: str
    loaded: int
    branches: tuple[str, ...]
    classifier: tuple[str, ...]
    others: tuple[str, ...]
    skipped: tuple[str, ...]
    kernels: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        parts = (
            ("coefficient branches", self.branches),
            ("classifier", self.classifier),
            ("other parts of dynamic layers", self.others),
        )
        new = ", ".join(f"{what} {len(names)}" for what, names in parts if names)
        count = sum(len(names) for _, names in parts)
        started = f"{count} start anew ({new})" if count else "none starts anew"
        taken = (("kernels and biases of dynamic layers", self.kernels), ("of norms", self.norms))
        listed = ", ".join(f"{len(names)} {what}" for what, names in taken if names)
        line = f"{self.network}: {self.loaded} tensors from {self.source}{f' ({listed})' if listed else ''}; {started}"
        if self.skipped:
            line += f"; {len(self.skipped)} of the file are not used ({some(self.skipped, 3)})"
        return line


def report_pretrained(
    model: nn.Module,
    network: str,
    source: str | PathLike[str] | bool,
    static_names: Iterable[str],
    fresh: Iterable[str],
    skipped: Iterable[str] = (),
    inflated: bool = True,
) -> PretrainedReport:
    """Compare a network with the static one that the weights are of, log one line, and leave the report on it.

    Args:
        model: The network as it is used; what was cut off does not count.
        network: Its name.
        source: Path of the weights, or True for the published ones.
        static_names: Names of the static network's tensors, which had the weights.
        fresh: Of these, what was not loaded: the classifier, if the number of classes differs.
        skipped: Names in the file that were not used.
        inflated: Whether dynamic layers start from the static weights.
    """
    static, missing = set(static_names), set(fresh)
    groups: dict[str, list[str]] = {key: [] for key in ("branches", "classifier", "others", "kernels", "norms", "rest")}
    kinds = _kinds(model)
    # the tensors of a dynamic layer have other names than the weight of the static one
    anew = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, (DynamicConv2d, DynamicClassifier)) and f"{name}.weight" in missing
    )
    for name in model.state_dict():
        kind = kinds.get(name, "rest")
        given = inflated if kind == "kernels" else name in static
        if name in missing or (kind == "kernels" and name.startswith(anew)):
            groups["classifier"].append(name)
        elif given:
            groups[kind if kind in ("kernels", "norms") else "rest"].append(name)
        else:
            groups["branches" if kind == "branches" else "others"].append(name)
    what = "the published weights" if isinstance(source, bool) else str(source)
    loaded = sum(len(groups[kind]) for kind in ("kernels", "norms", "rest"))
    named = {key: tuple(names) for key, names in groups.items() if key != "rest"}
    report = PretrainedReport(network, what, loaded, skipped=tuple(skipped), **named)
    _LOGGER.info("%s", printable(str(report)))
    model.pretrained_report = report  # type: ignore[assignment]
    return report


def _kinds(model: nn.Module) -> dict[str, str]:
    """Of each tensor of a dynamic layer, a branch or a norm which of these it belongs to; the innermost counts."""
    kinds: dict[str, str] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, DynamicConv2d):
            kernels = {id(parameter) for group in module.kernels_and_biases() for parameter in group}
            parameters = dict(module.named_parameters(remove_duplicate=False))
            for name in module.state_dict():
                parameter = parameters.get(name)
                kinds[dot + name] = "kernels" if parameter is not None and id(parameter) in kernels else "others"
        elif isinstance(module, CoefficientBranch):
            kinds.update((dot + name, "branches") for name in module.state_dict())
        elif isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
            # a norm inside a layer or a branch is new, as that is
            kinds.update((key, "norms") for name in module.state_dict() if (key := dot + name) not in kinds)
    return kinds
