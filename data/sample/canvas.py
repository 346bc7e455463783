"""What the sample scenes are drawn on and with: three maps that stay in step, and a brush for one object."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
Point = tuple[float, float]

_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
#: Points of a circle of radius 1.
CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


class Canvas:
    """Image, label map and instance map of a scene, drawn together.

    Args:
        size: Height and width in pixels.

    Attributes:
        image: uint8 ``[size, size, 3]``.
        labels: uint8 ``[size, size]``, Cityscapes labelIds.
        instances: uint8 ``[size, size]``, number of the object, 0 for none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.image = np.zeros((size, size, 3), dtype=np.uint8)
        self.labels = np.zeros((size, size), dtype=np.uint8)
        self.instances = np.zeros((size, size), dtype=np.uint8)

    def polygon(self, points: NDArray[np.float64], color: Color | None, label: int, instance: int = 0) -> None:
        """Fills a polygon given in pixels; without a colour only the maps change."""
        corners = [np.round(points * 16).astype(np.int32)]  # 4 fractional bits
        if color is not None:
            cv2.fillPoly(self.image, corners, color, shift=4)
        cv2.fillPoly(self.labels, corners, label, shift=4)
        cv2.fillPoly(self.instances, corners, instance, shift=4)


class Brush:
    """Draws one object at its place: scaled, mirrored, slightly turned.

    Args:
        canvas: To draw on.
        x: Ground point, in pixels from the left.
        y: Ground point, in pixels from the top.
        height: Pixels per unit.
        label: labelId of what is drawn.
        instance: Number of the object.
        mirror: Swap left and right.
        angle: Turn in radians.
    """

    def __init__(
        self, canvas: Canvas, x: float, y: float, height: float, label: int, instance: int, mirror: bool, angle: float
    ) -> None:
        self.canvas, self.label, self.instance = canvas, label, instance
        self._at = np.array([x, y])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._matrix = turn @ np.diag([-height if mirror else height, -height])

    def polygon(self, points: Sequence[Point] | NDArray[np.float64], color: Color | None) -> None:
        """Fills a polygon."""
        pixels = np.asarray(points, dtype=np.float64) @ self._matrix.T + self._at
        self.canvas.polygon(pixels, color, self.label, self.instance)

    def box(self, left: float, bottom: float, right: float, top: float, color: Color | None) -> None:
        """Fills a rectangle."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], color)

    def disc(self, x: float, y: float, radius: float, color: Color | None, aspect: float = 1.0) -> None:
        """Fills a circle, or an ellipse ``aspect`` times as high as wide."""
        self.polygon(CIRCLE * (radius, radius * aspect) + (x, y), color)

    def bar(self, start: Point, end: Point, width: float, color: Color) -> None:
        """Fills a straight bar of a width."""
        a, b = np.array(start), np.array(end)
        along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
        side = np.array([-along[1], along[0]]) * width / 2
        self.polygon(np.stack([a + side, b + side, b - side, a - side]), color)


def random_color(rng: np.random.Generator, saturation: tuple[float, float] = (0.2, 0.9)) -> Color:
    """Any hue."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(0.35, 0.95))
    return shade((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])), 1.0)


def shade(color: Color, factor: float) -> Color:
    """A colour made darker or lighter."""
    red, green, blue = (min(255, max(0, round(value * factor))) for value in color)
    return red, green, blue
