"""Figures of numbers by matplotlib: made without a window system, named in any script, saved whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyvision.saving import replacing
from dyvision.text import printable
from dyvision.visualize.fonts import font_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches. Not of pyplot: no window system, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_figure(path: str | PathLike[str], option: str = "picture") -> None:
    """Check the suffix of a file, before hours of measurements.

    Args:
        path: The file.
        option: Who asked for it, for the message.

    Raises:
        ValueError: If no picture of that kind can be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"{option} {path}: the suffix must be one of {', '.join(sorted(known))}")


def save_figure(figure: Figure, path: str | PathLike[str], dpi: int = 150) -> None:
    """Write a figure; the suffix chooses the format.

    Raises:
        ValueError: If no picture of that kind can be written.
        OSError: As for :func:`dyvision.saving.replacing`.
    """
    check_figure(path)
    with replacing(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # no font of this machine has it
        figure.savefig(part, dpi=dpi, format=Path(path).suffix.removeprefix(".").lower())


def literal(name: object) -> str:
    """A stranger's name for a figure: on one line, and no formula, which a ``$`` would begin."""
    return printable(" ".join(str(name).split())).replace("$", r"\$")


def name_ticks(axis: Axis, names: Sequence[str], size: str = "small", **options: Any) -> None:
    """Write names of classes at 0, 1, 2, ... along an axis, each in a font that has its letters."""
    from matplotlib.font_manager import FontProperties

    axis.set_ticks(range(len(names)), [literal(name) for name in names], **options)
    for tick, name in zip(axis.get_ticklabels(), names, strict=True):
        tick.set_fontproperties(FontProperties(fname=font_file(name), size=size))


def heat_map(axes: Axes, values: Any, low: float, high: float, colors: str, **options: Any) -> AxesImage:
    """Draw a matrix as cells of colours between two limits, NaN in none.

    Args:
        axes: Where.
        values: ``[rows, columns]``.
        low: Value of the first colour.
        high: Value of the last colour.
        colors: A colour map of matplotlib's.
        options: Others of ``Axes.imshow``.
    """
    return axes.imshow(values, vmin=low, vmax=high, cmap=colors, interpolation="nearest", **options)


def hide_frame(axes: Axes) -> None:
    """Leave the axes themselves of the frame around a chart."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
