"""Pictures of ``dyvision report routing``: correlation of kernels and coefficients, at a size that one would show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyvision.analysis.routing_report import short_names, static_sources
from dyvision.visualize.colors import BLUE, GREY
from dyvision.visualize.figures import heat_map, hide_frame, name_ticks, new_figure, save_figure

if TYPE_CHECKING:
    from torch import Tensor

    from dyvision.analysis.routing import LayerRouting

#: layers with matrices of their own in the picture of the correlation, with coefficients in the other
_MATRICES, _PANELS = 4, 8
#: columns of a heat map, those that differ most between classes; pixels of a matrix, larger ones are averaged
_COLUMNS, _PIXELS = 64, 64
#: names of layers and classes beside which there is room for their names
_NAMED_LAYERS, _NAMED_CLASSES = 60, 30


def _spread(results: Sequence[LayerRouting], count: int) -> list[LayerRouting]:
    """At most so many layers, from first to last."""
    if len(results) <= count:
        return list(results)
    return [results[round(index * (len(results) - 1) / (count - 1))] for index in range(count)]


def _which(shown: int, total: int) -> str:
    return f"{total} layers" if shown == total else f"{shown} of {total} layers (--layers chooses)"


def draw_correlation(results: Sequence[LayerRouting], path: Path) -> None:
    """Draw the mean |correlation| of every layer, and for some of them both matrices and the histogram.

    Args:
        results: The layers; four have matrices, spread over the depth.
        path: Picture to write.
    """
    import torch
    from matplotlib.ticker import PercentFormatter

    rows = _spread(results, _MATRICES)
    names, _ = short_names(results)
    figure = new_figure(11, 4.6 + 2.5 * len(rows))
    halves: Any = figure.subfigures(2, 1, height_ratios=[4.2, 2.5 * len(rows)])
    top, below = halves
    figure.suptitle("How alike the output kernels of a layer are: |correlation| of pairs", fontsize="large")
    axes = top.subplots()
    places = range(len(results))
    static, dynamic = [result.static.mean for result in results], [result.dynamic.mean for result in results]
    axes.vlines(places, static, dynamic, color="#bbbbbb", linewidth=1)
    axes.plot(places, static, "s", color=GREY, markersize=4, label=f"static ({static_sources(results)})")
    label = f"dynamic (kernels of {results[0].correlation_images} images)"
    axes.plot(places, dynamic, "o", color=BLUE, markersize=4, label=label)
    axes.set_ylabel("mean |r|")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.grid(axis="y", color="#eeeeee")
    step = -(-len(results) // _NAMED_LAYERS)
    labels = [names[result.name] for result in results][::step]
    axes.set_xticks(list(places)[::step], labels, rotation=90, fontsize=7)
    axes.legend(frameon=False, fontsize="small", ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set_title(f"all {len(results)} layers", loc="left", fontsize="medium")
    hide_frame(axes)
    grid = below.subplots(len(rows), 3, squeeze=False, width_ratios=[1, 1, 1.5])
    below.suptitle(_which(len(rows), len(results)), fontsize="medium", x=0.01, ha="left")
    for (left, middle, right), result in zip(grid, rows, strict=True):
        matrices = [_without_diagonal(part.matrix) for part in (result.static, result.dynamic)]
        # to the largest of both: most pairs of a wide layer are far from 1
        values = [float(value) for matrix in matrices for value in (matrix.nan_to_num().max(), 2 * matrix.nanmean())]
        limit = max([value for value in values if not math.isnan(value)] + [1e-6])
        for place, matrix, name in zip((left, middle), matrices, ("static", "dynamic"), strict=True):
            size = len((result.static if name == "static" else result.dynamic).matrix)
            image = heat_map(place, matrix.numpy(), 0, limit, "YlGnBu", extent=(0, size, size, 0))
            mean = (result.static if name == "static" else result.dynamic).mean
            shown = "no pairs" if math.isnan(mean) else f"mean {mean:.3f}"
            place.set_title(f"{name}, {shown}", fontsize="small")
            place.set_xticks([0, size])
            place.set_yticks([0, size])
            place.tick_params(labelsize="x-small")
        left.set_ylabel(names[result.name], fontsize="small")
        averaged = f"\n({_PIXELS} x {_PIXELS} means)" if len(result.static.matrix) > _PIXELS else ""
        bar = below.colorbar(image, ax=[left, middle], shrink=0.9, pad=0.02)
        bar.set_label(f"|r|{averaged}", fontsize="x-small")
        bar.ax.tick_params(labelsize="x-small")
        edges = torch.linspace(0, 1, len(result.static.histogram) + 1).tolist()
        right.stairs(result.static.histogram.numpy(), edges, color=GREY, alpha=0.5, fill=True, label="static")
        right.stairs(result.dynamic.histogram.numpy(), edges, color=BLUE, linewidth=1.5, label="dynamic")
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        right.set_title("share of pairs by |r|", fontsize="small")
        right.tick_params(labelsize="x-small")
        right.legend(frameon=False, fontsize="small")
        hide_frame(right)
    save_figure(figure, path, dpi=100)


def _without_diagonal(matrix: Tensor) -> Tensor:
    """Pairs of different kernels, averaged over squares where there are many."""
    import torch

    pairs = matrix.clone().fill_diagonal_(torch.nan)
    size = len(pairs)
    if size <= _PIXELS:
        return pairs
    bounds = [round(index * size / _PIXELS) for index in range(_PIXELS + 1)]
    parts = torch.stack([pairs[a:b].nanmean(0) for a, b in pairwise(bounds)])
    return torch.stack([parts[:, a:b].nanmean(1) for a, b in pairwise(bounds)], 1)


def draw_coefficients(results: Sequence[LayerRouting], path: Path, classes: Sequence[str] = ()) -> None:
    """Draw the coefficients of each layer: by class as a heat map, or their distribution if there are no classes.

    Args:
        results: The layers; at most eight are drawn, spread over the depth.
        path: Picture to write.
        classes: Names of the classes, in the order of the labels.
    """
    shown = _spread(results, _PANELS)
    names, _ = short_names(results)
    labelled = shown[0].labels is not None
    columns = 1 if len(shown) == 1 else 2
    lines = -(-len(shown) // columns)
    height = min(max(2.6, 0.16 * len(classes) + 1.2), 14 / lines) if labelled else 2.6
    figure = new_figure(12 if columns == 2 else 8, 1 + height * lines)
    what = "mean of a class minus mean of all images" if labelled else "distribution over images"
    figure.suptitle(f"Coefficients: {what}; {_which(len(shown), len(results))}", fontsize="large")
    grid = figure.subplots(lines, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        _panel(figure, axes, shown[place], names[shown[place].name], classes, named=place % columns == 0)
    save_figure(figure, path, dpi=100)


def _panel(figure: Any, axes: Any, result: LayerRouting, name: str, classes: Sequence[str], named: bool) -> None:
    """One layer's coefficients; the names of the classes stand left of the first column alone."""
    count = result.coefficients.shape[1]
    title = f"{name}: {result.meaning}"
    if result.labels is None:
        spread = result.coefficients.std(0, correction=0)
        chosen = spread.topk(min(count, _COLUMNS)).indices.sort().values
        axes.boxplot(
            result.coefficients[:, chosen].numpy(), positions=list(range(len(chosen))), showfliers=False, widths=0.6
        )
        axes.grid(axis="y", color="#eeeeee")
        hide_frame(axes)
        ranked = "vary most"
    else:
        total = max(len(classes), int(result.labels.max()) + 1)
        deviation = result.class_means(total) - result.coefficients.mean(0)
        spread = deviation.nan_to_num().square().sum(0)
        chosen = spread.topk(min(count, _COLUMNS)).indices.sort().values
        deviation = deviation[:, chosen]
        limit = float(deviation.nan_to_num().abs().max()) or 1.0
        image = heat_map(axes, deviation.numpy(), -limit, limit, "RdBu_r", aspect="auto")
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        bar.ax.tick_params(labelsize="x-small")
        bar.formatter.set_powerlimits((-2, 3))
        bar.ax.yaxis.get_offset_text().set_fontsize("x-small")
        if len(classes) == total <= _NAMED_CLASSES:
            name_ticks(axes.yaxis, classes if named else [""] * total)
        else:
            axes.set_ylabel("class" if named else "", fontsize="small")
        share = result.class_share
        title += "\n" + ("do not vary" if share is None or math.isnan(share) else f"share between classes {share:.2f}")
        ranked = "differ most between classes"
    # every coefficient has its number, as far as there is room
    step = -(-len(chosen) // 16)
    axes.set_xticks(range(0, len(chosen), step), [str(int(index)) for index in chosen[::step]], fontsize="x-small")
    which = f", {len(chosen)} of {count} that {ranked}" if count > _COLUMNS else ""
    axes.set_xlabel(("kernel" if "K kernels" in result.meaning else "coefficient") + which, fontsize="small")
    axes.set_title(title, fontsize="small")
