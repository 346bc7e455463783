"""The chart of ``dyvision benchmark``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dyvision.analysis.benchmark.rows import Row
from dyvision.visualize.colors import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from dyvision.visualize.figures import hide_frame, new_figure, save_figure

_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW, GREY)
_MARKERS = "osD^v<>P"
#: lines of dots up to which every shape or network has its own; above, one line has all its shapes
_LINES = 70


def save_chart(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the ratios, one panel per batch, one colour per thing measured.

    Dots with their percentiles per shape or network; if these are too many for a page, a line per thing measured with a
    dot per shape and their geometric mean.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator

    batches = list(dict.fromkeys(row.batch for row in rows))
    heights, ticks = _arrange(rows)
    summarised = len(heights) + len(ticks) > _LINES
    if summarised:
        series = list(dict.fromkeys((row.name, row.reference) for row in rows))
        lines = len(series)
        ticks = {f"{name} / {reference}": float(place) for place, (name, reference) in enumerate(series)}
    else:
        lines = len(heights) + len(ticks)
    figure = new_figure(4 + 3 * len(batches), 2.2 + (0.32 if summarised else 0.16) * lines)
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for axes, batch in zip(panels, batches, strict=True):
        own = [row for row in rows if row.batch == batch]
        if summarised:
            _swarm(axes, own, series)
        else:
            _dots(axes, own, rows, heights)
        axes.axvline(1, color=GREY, linewidth=1, zorder=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(f"batch {batch}", fontsize="medium")
        axes.set_xlabel("time ratio")
        hide_frame(axes)
    panels[0].set_yticks(list(ticks.values()), list(ticks), fontsize="small")
    last = max(ticks.values()) if summarised else max(heights.values())
    panels[0].set_ylim(last + 1, -1)  # the first on top; shared by all panels
    figure.suptitle(title, fontsize="small")
    if summarised:
        shapes = len(dict.fromkeys(row.group for row in rows))
        text = f"a dot per shape ({shapes}), bars: geometric mean; --csv has every ratio"
        figure.supxlabel(text, fontsize="small")
    else:
        handles, labels = panels[0].get_legend_handles_labels()
        columns = 1 + len(batches)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    save_figure(figure, path)


def _dots(axes: Any, own: Sequence[Row], rows: Sequence[Row], heights: dict[tuple[str, str, str], int]) -> None:
    """A dot with percentiles per shape and thing measured."""
    names = list(dict.fromkeys(row.name for row in rows))
    references = list(dict.fromkeys(row.reference for row in rows))
    for name, reference in dict.fromkeys((row.name, row.reference) for row in rows):
        chosen = [row for row in own if (row.name, row.reference) == (name, reference)]
        index = names.index(name)
        marker = index // len(_COLORS) * len(references) + references.index(reference)
        axes.errorbar(
            [row.ratio for row in chosen],
            [heights[row.group, name, reference] for row in chosen],
            xerr=[[row.ratio - row.low for row in chosen], [row.high - row.ratio for row in chosen]],
            fmt=_MARKERS[marker % len(_MARKERS)],
            color=_COLORS[index % len(_COLORS)],
            markersize=4,
            elinewidth=1,
            label=f"{name} / {reference}",
        )


def _swarm(axes: Any, own: Sequence[Row], series: Sequence[tuple[str, str]]) -> None:
    """All shapes of a thing measured on one line, a little apart, and their geometric mean."""
    names = list(dict.fromkeys(name for name, _ in series))
    for place, key in enumerate(series):
        ratios = [row.ratio for row in own if (row.name, row.reference) == key]
        if not ratios:
            continue
        color = _COLORS[names.index(key[0]) % len(_COLORS)]
        apart = [place + 0.28 * ((index * 0.618) % 1 - 0.5) for index in range(len(ratios))]
        axes.plot(ratios, apart, "o", color=color, markersize=3, alpha=0.45, markeredgewidth=0)
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        axes.vlines(mean, place - 0.35, place + 0.35, color=color, linewidth=2.5)
        axes.annotate(f"{mean:.2f}", (mean, place - 0.36), ha="center", va="bottom", fontsize="x-small", color=color)


def _arrange(rows: Sequence[Row]) -> tuple[dict[tuple[str, str, str], int], dict[str, float]]:
    """Heights of the dots, one per group and series, and of the groups' names, with a gap between groups."""
    heights: dict[tuple[str, str, str], int] = {}
    ticks: dict[str, float] = {}
    line = 0
    for group in dict.fromkeys(row.group for row in rows):
        own = list(dict.fromkeys((row.name, row.reference) for row in rows if row.group == group))
        heights.update({(group, *key): line + index for index, key in enumerate(own)})
        ticks[group] = line + (len(own) - 1) / 2
        line += len(own) + 1
    return heights, ticks
