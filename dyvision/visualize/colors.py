"""Colours: distinct ones for classes, a palette for charts, letters that can be read on a ground."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

Color = Sequence[int]

#: paper and ink of sheets and legends
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)
#: of charts, distinguishable without colour vision (Okabe and Ito's palette), and what is compared with in grey
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#F0E442"),
)
GREY = "#999999"
#: ground of a name that is what it should be, and of one that is not
RIGHT, WRONG = (40, 130, 60), (190, 40, 40)

_GOLDEN_RATIO = 0.618033988749895


def palette(count: int) -> list[list[int]]:
    """Distinct colours, the same ones every time.

    Hues advance by the golden ratio, which keeps any number of them apart; brightness alternates.

    Returns:
        ``count`` lists ``[r, g, b]`` in 0..255.
    """
    colors = []
    for index in range(count):
        hue = (0.02 + index * _GOLDEN_RATIO) % 1.0
        rgb = colorsys.hsv_to_rgb(hue, (0.75, 0.55, 0.9)[index % 3], (0.95, 0.75, 0.6)[index // 2 % 3])
        colors.append([round(255 * value) for value in rgb])
    return colors


def rgb(color: Color) -> tuple[int, int, int]:
    """A colour as Pillow takes it."""
    return int(color[0]), int(color[1]), int(color[2])


def readable_on(color: Color) -> tuple[int, int, int]:
    """Black or white, whichever reads better on a ground."""
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)
