"""Rows of the report: parameters, and multiply-adds for an example input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dyvision.convert._atomic import unchanged
from dyvision.convert._replacing import Replacement
from dyvision.convert._sites import ConvSite
from dyvision.convert.report import ConversionReport, ConvertedLayer
from dyvision.ops.counting import every_operation


def count_executed(model: nn.Module, modules: Mapping[str, nn.Module], example: Tensor) -> dict[str | None, int]:
    """Multiply-adds that each of some modules executes in evaluation mode, and under None those of the whole model."""
    counts: dict[str | None, int] = dict.fromkeys(modules, 0)
    names = {module: name for name, module in modules.items()}
    started: dict[nn.Module, int] = {}
    counter = FlopCounterMode(display=False)
    with unchanged(model), torch.no_grad(), every_operation(), counter:

        def before(module: nn.Module, inputs: Any) -> None:
            started[module] = counter.get_total_flops()

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            counts[names[module]] += (counter.get_total_flops() - started[module]) // 2

        for module in names:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
        model.eval()
        model(example)
        counts[None] = counter.get_total_flops() // 2
    return counts


def count_params(modules: Iterable[nn.Module], seen: set[int] | None = None) -> int:
    """Elements of the parameters of some modules, each parameter once; those in ``seen``, which grows, are left out."""
    seen = set() if seen is None else seen
    total = 0
    for module in modules:
        for parameter in module.parameters():
            total += 0 if id(parameter) in seen else parameter.numel()
            seen.add(id(parameter))
    return total


def make_report(
    layer: str,
    model: nn.Module,
    sites: Sequence[ConvSite],
    done: Replacement,
    static: Mapping[str, str],
    params_before: int,
    macs_before: Mapping[str | None, int] | None,
    example: Tensor | None,
) -> ConversionReport:
    """Put the report together, after the layers are in place."""
    after: dict[str, nn.Module] = {**done.layers, **done.branches}
    macs_after = None if example is None else count_executed(model, after, example)
    convs = {site.name: site.conv for site in sites}
    order = [name for name, _ in model.named_modules(remove_duplicate=False) if name in after]
    seen: set[int] = set()
    rows = [
        ConvertedLayer(
            name,
            type(convs[name]).__name__ if name in convs else "",
            type(after[name]).__name__,
            count_params([convs[name]]) if name in convs else 0,
            count_params([after[name]], seen),
            None if macs_before is None else macs_before.get(name, 0),
            None if macs_after is None else macs_after[name],
            done.fitting.instead(name),
        )
        for name in dict.fromkeys(order)
    ]
    return ConversionReport(
        layer,
        tuple(rows),
        dict(done.apart),
        {**static, **done.fitting.static},
        params_before,
        count_params([model]),
        None if macs_before is None else macs_before[None],
        None if macs_after is None else macs_after[None],
        None if example is None else tuple(example.shape),
    )
