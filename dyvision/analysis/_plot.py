"""Multiply-adds of the stages as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

from dyvision.analysis.cost import Cost
from dyvision.visualize.colors import BLUE, GREY, ORANGE, VERMILION
from dyvision.visualize.figures import check_figure, hide_frame, new_figure, save_figure

#: part of the cost: its name and colour
_PARTS = {
    "static": ("static convolution, linear", GREY),
    "dynamic": ("dynamic convolution", BLUE),
    "branch": ("branch", ORANGE),
    "mixing": ("mixing, gates, low rank", VERMILION),
}


def save_stages(stages: Mapping[str, Cost], path: str | PathLike[str], title: str = "") -> None:
    """Draw one horizontal bar per stage, the first on top.

    Args:
        stages: Costs by the name of the stage.
        path: File to write.
        title: Above the bars.

    Raises:
        ValueError: If the file's suffix names no format that can be written.
    """
    check_figure(path)
    figure = new_figure(8, 1.5 + 0.32 * max(len(stages), 1))
    axes = figure.add_subplot()
    left = [0.0] * len(stages)
    positions = range(len(stages))
    for part, (label, color) in _PARTS.items():
        widths = [getattr(cost, part) / 1e6 for cost in stages.values()]
        if any(widths):
            axes.barh(positions, widths, left=left, label=label, color=color)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for position, total in zip(positions, left, strict=True):
        axes.annotate(f" {total:.1f}", (total, position), va="center", fontsize="small")
    axes.set_yticks(list(positions), list(stages))
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("multiply-adds (millions)")
    axes.set_title(title)
    hide_frame(axes)
    if any(left):
        figure.legend(loc="outside lower center", ncols=len(_PARTS), frameon=False, fontsize="small")
    save_figure(figure, path)
