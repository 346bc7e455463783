"""How much of a network comes from pretrained weights, and what starts anew."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike

from torch import nn

from dyvision.layers import CoefficientBranch
from dyvision.text import some

_LOGGER = logging.getLogger("dyvision.backbones")


@dataclass(frozen=True)
class PretrainedReport:
    """What pretrained weights gave to a network; ``create_model`` leaves it as ``model.pretrained_report``.

    Attributes:
        network: Name of the network.
        source: The file, or "published weights".
        loaded: Number of tensors that come from the weights (kernels of dynamic layers start from them).
        branches: Names of new tensors in coefficient branches.
        classifier: Names of new tensors of the classifier, whose number of classes differs.
        others: Names of other new tensors (low-rank parts, temperatures, counters).
        skipped: Names in the file that were not used; empty for published weights.
    """

    network: str
    source: str
    loaded: int
    branches: tuple[str, ...]
    classifier: tuple[str, ...]
    others: tuple[str, ...]
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        """One line."""
        parts = (("coefficient branches", self.branches), ("classifier", self.classifier), ("others", self.others))
        new = ", ".join(f"{what} {len(names)}" for what, names in parts if names)
        count = sum(len(names) for _, names in parts)
        started = f"{count} start anew ({new})" if count else "none starts anew"
        line = f"{self.network}: {self.loaded} tensors from {self.source}; {started}"
        if self.skipped:
            line += f"; {len(self.skipped)} of the file are not used ({some(self.skipped, 3)})"
        return line


def report_pretrained(
    model: nn.Module,
    network: str,
    source: str | PathLike[str] | bool,
    static_names: Iterable[str],
    classifier: Iterable[str],
    skipped: Iterable[str] = (),
) -> PretrainedReport:
    """Compare a network with what it was before it became dynamic, log one line, and leave the report on it.

    Args:
        model: The network as it is used; what was cut off does not count.
        network: Its name.
        source: Path of the weights, or True for the published ones.
        static_names: Names of the static network's tensors, which had the weights.
        classifier: Of these, what was not loaded because the number of classes differs.
        skipped: Names in the file that were not used.
    """
    static, fresh = set(static_names), set(classifier)
    branches = {name for name, module in model.named_modules() if isinstance(module, CoefficientBranch)}
    loaded = 0
    groups: dict[str, list[str]] = {"branches": [], "classifier": [], "others": []}
    for name in model.state_dict():
        if name in fresh:
            groups["classifier"].append(name)
        elif name in static:
            loaded += 1
        else:
            inside = any(name.startswith(f"{branch}.") for branch in branches)
            groups["branches" if inside else "others"].append(name)
    what = "the published weights" if isinstance(source, bool) else str(source)
    named = {key: tuple(names) for key, names in groups.items()}
    report = PretrainedReport(network, what, loaded, skipped=tuple(skipped), **named)
    _LOGGER.info("%s", report)
    model.pretrained_report = report  # type: ignore[assignment]
    return report
