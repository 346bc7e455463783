"""Everything that draws: labels, masks and boxes on images, sheets of pictures, and figures of numbers.

Rooms above say what to draw; files are written whole or not at all (:mod:`dyvision.saving`).
"""

from dyvision.visualize.colors import palette
from dyvision.visualize.labels import (
    draw_boxes,
    draw_label,
    draw_legend,
    draw_objects,
    legend_of,
    overlay_mask,
    overlay_with_legend,
)
from dyvision.visualize.pictures import as_image, denormalize, fit, grid, read_rgb, save

__all__ = (
    "as_image",
    "denormalize",
    "draw_boxes",
    "draw_label",
    "draw_legend",
    "draw_objects",
    "fit",
    "grid",
    "legend_of",
    "overlay_mask",
    "overlay_with_legend",
    "palette",
    "read_rgb",
    "save",
)
