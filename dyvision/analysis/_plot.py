"""Multiply-adds of the stages as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from dyvision.analysis.cost import Cost
from dyvision.saving import replacing

#: part of the cost: its name and colour (distinguishable without colour vision: Okabe and Ito's palette)
_PARTS = {
    "static": ("static convolution, linear", "#999999"),
    "dynamic": ("dynamic convolution", "#0072B2"),
    "branch": ("branch", "#E69F00"),
    "mixing": ("mixing, gates, low rank", "#D55E00"),
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
    # not pyplot: no window system, no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"picture {path}: the suffix must be one of {', '.join(sorted(known))}")
    figure = Figure(figsize=(8, 1.5 + 0.32 * max(len(stages), 1)), layout="constrained")
    FigureCanvasAgg(figure)
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
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if any(left):
        figure.legend(loc="outside lower center", ncols=len(_PARTS), frameon=False, fontsize="small")
    with replacing(path) as target:
        figure.savefig(target, dpi=150)
