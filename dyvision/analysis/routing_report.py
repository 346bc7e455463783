"""What ``dyvision report routing`` finds as numbers and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from dyvision.analysis.routing import LayerRouting
from dyvision.tables import NAME, FittingTable
from dyvision.text import plain


def short_names(results: Sequence[LayerRouting]) -> tuple[dict[str, str], str]:
    """Names without the modules that all layers are in, and these."""
    names = [result.name for result in results]
    parents = zip(*(name.split(".")[:-1] for name in names), strict=False)
    prefix = "".join(f"{column[0]}." for column in takewhile(lambda column: len(set(column)) == 1, parents))
    return {name: name.removeprefix(prefix) for name in names}, prefix


def static_sources(results: Sequence[LayerRouting]) -> str:
    """What the dynamic kernels are compared with."""
    return ", ".join(dict.fromkeys(result.static_source for result in results))


def routing_numbers(result: LayerRouting, classes: int) -> dict[str, Any]:
    """The numbers of a layer as plain types."""
    coefficients = result.coefficients
    numbers = {
        "layer": result.name,
        "kind": result.kind,
        "coefficients": result.meaning,
        "images": len(coefficients),
        "correlation_images": result.correlation_images,
        "static_source": result.static_source,
        "mean_abs_correlation_static": result.static.mean,
        "mean_abs_correlation_dynamic": result.dynamic.mean,
        "histogram_static": result.static.histogram.tolist(),
        "histogram_dynamic": result.dynamic.histogram.tolist(),
        "between_class_share": result.class_share,
        "between_class_share_by_chance": result.chance_share,
        "coefficient_mean": coefficients.mean(0).tolist(),
        "coefficient_std": coefficients.std(0, correction=0).tolist(),
        "class_means": None if result.labels is None else result.class_means(classes).tolist(),
    }
    return {name: _plain(value) for name, value in numbers.items()}


def _plain(value: Any) -> Any:
    """JSON has no NaN: None."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def make_table(results: Sequence[LayerRouting]) -> FittingTable:
    """One line per layer: how alike its kernels are, and what classes explain of its coefficients."""
    first = results[0]
    caption = (
        f"|r|: mean absolute correlation of a layer's output kernels, {first.correlation_images} images; static: "
        f"{static_sources(results)}. Share: variance of the coefficients between classes over all of it, "
        f"{len(first.coefficients)} images"
    )
    if first.chance_share is not None:
        caption += f"; classes that mean nothing would give {first.chance_share:.3f}"
    names, prefix = short_names(results)
    title = f"routing of {prefix}*" if prefix else "routing"
    table = FittingTable(title, f"{caption}.", elsewhere="routing.json has them")
    table.add_column("layer", NAME)
    table.add_column("kind", importance=3)
    table.add_column("coefficients", importance=2, justify="right")
    for name in ("|r|\nstatic", "|r|\ndynamic", "share"):
        table.add_column(name, justify="right")
    for result in results:
        values = (result.static.mean, result.dynamic.mean, result.class_share)
        shown = ("-" if value is None or math.isnan(value) else f"{value:.3f}" for value in values)
        table.add_row(plain(names[result.name]), result.kind, str(result.coefficients.shape[1]), *shown)
    return table
