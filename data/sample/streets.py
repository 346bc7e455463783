"""Surroundings of the sample scenes: sky, buildings, vegetation, sidewalk and road, with their textures."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dyvision.data.cityscapes_labels import CITYSCAPES_LABELS
from dyvision.data.sample.canvas import CIRCLE, Canvas, Color, random_color, shade

Rng = np.random.Generator

#: labelId of each of Cityscapes' names.
LABEL_IDS = {label.name: label.id for label in CITYSCAPES_LABELS}

_SKIES = (
    ((96, 158, 224), (204, 226, 244)),
    ((148, 156, 168), (206, 208, 210)),
    ((84, 92, 150), (246, 178, 120)),
    ((120, 180, 220), (250, 236, 200)),
    ((52, 70, 112), (150, 150, 176)),
)
#: Sizes of the grains of noise, in pixels.
GRAINS = (1, 2, 8, 32)
# how strongly each label is textured, in the last three of these grains
_TEXTURE = {
    "sky": (0, 1, 8),
    "building": (4, 4, 6),
    "vegetation": (22, 20, 12),
    "sidewalk": (9, 3, 5),
    "road": (7, 3, 7),
    "pole": (4, 0, 0),
    "static": (6, 4, 4),
}


def draw_street(canvas: Canvas, rng: Rng, horizon: float, vanishing: float) -> None:
    """Draws sky, buildings, sidewalk, road and vegetation.

    Args:
        canvas: Everything on it is covered.
        rng: Everything is drawn from it.
        horizon: Row of the horizon.
        vanishing: Column in which the road vanishes.
    """
    size = canvas.size
    top, low = (np.array(color, dtype=np.float64) for color in _SKIES[int(rng.integers(len(_SKIES)))])
    ramp = np.linspace(0, 1, int(horizon) + 1)[:, None]
    canvas.image[: len(ramp)] = (top + (low - top) * ramp)[:, None].round().astype(np.uint8)
    canvas.labels[: len(ramp)] = LABEL_IDS["sky"]
    _draw_clouds(canvas, rng, horizon)
    _draw_buildings(canvas, rng, horizon)
    grey = int(rng.integers(130, 195))
    pavement: Color = (grey, int(grey * rng.uniform(0.9, 1.0)), int(grey * rng.uniform(0.78, 0.98)))
    rectangle(canvas, 0, horizon, size, size, pavement, "sidewalk")
    for row in np.geomspace(4, size - horizon, 7):  # joints between the slabs
        cv2.line(canvas.image, (0, int(horizon + row)), (size, int(horizon + row)), shade(pavement, 0.82), 1)
    grey = int(rng.integers(52, 105))
    asphalt: Color = (grey, grey, int(grey * rng.uniform(1.0, 1.12)))
    left, right = vanishing - size * rng.uniform(0.45, 0.8), vanishing + size * rng.uniform(0.45, 0.8)
    road = [(vanishing - size * 0.09, horizon), (vanishing + size * 0.09, horizon), (right, size), (left, size)]
    canvas.polygon(np.array(road), asphalt, LABEL_IDS["road"])
    middle = (left + right) / 2
    for start in np.arange(0.08, 1.0, 0.2) + rng.uniform(-0.05, 0.05):  # dashes of the lane
        dash = []
        for t, sides in ((start, (-1, 1)), (start + 0.09, (1, -1))):
            x, y = vanishing + (middle - vanishing) * t, horizon + (size - horizon) * t
            dash += [(x + side * (1 + 4 * t), y) for side in sides]
        canvas.polygon(np.array(dash), (224, 222, 206), LABEL_IDS["road"])
    _draw_vegetation(canvas, rng, horizon)


def _draw_clouds(canvas: Canvas, rng: Rng, horizon: float) -> None:
    clouds = np.zeros((int(horizon), canvas.size), dtype=np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, canvas.size), rng.uniform(0, horizon * 0.7)
        for _ in range(4):
            at = (int(x + rng.normal(0, canvas.size * 0.06)), int(y + rng.normal(0, canvas.size * 0.015)))
            axes = (int(canvas.size * rng.uniform(0.04, 0.1)), int(canvas.size * rng.uniform(0.015, 0.035)))
            cv2.ellipse(clouds, at, axes, 0, 0, 360, 170, -1)
    if clouds.any():
        weight = cv2.GaussianBlur(clouds, (0, 0), canvas.size / 64)[..., None].astype(np.float32) / 255
        sky = canvas.image[: int(horizon)]
        sky[:] = (sky + (246 - sky.astype(np.float32)) * weight).astype(np.uint8)


def rectangle(canvas: Canvas, left: float, top: float, right: float, bottom: float, color: Color, label: str) -> None:
    """Fills an upright rectangle of the surroundings, given in pixels."""
    canvas.polygon(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), color, LABEL_IDS[label])


def _draw_buildings(canvas: Canvas, rng: Rng, horizon: float) -> None:
    size, x = canvas.size, -rng.uniform(0, 0.1) * canvas.size
    while x < size:
        width = size * rng.uniform(0.14, 0.34)
        if rng.random() < 0.85:
            top = horizon - size * rng.uniform(0.16, 0.36)
            wall = random_color(rng, (0.05, 0.42))
            rectangle(canvas, x, top, x + width, horizon + size * 0.03, wall, "building")
            if rng.random() < 0.4:
                ridge = top - size * 0.06
                roof = [(x, top), (x + width, top), (x + width * 0.7, ridge), (x + width * 0.3, ridge)]
                canvas.polygon(np.array(roof), shade(wall, 0.65), LABEL_IDS["building"])
            pane = shade(wall, rng.uniform(0.55, 0.8))
            step = size * rng.uniform(0.035, 0.06)
            for left in np.arange(x + step * 0.4, x + width - step * 0.6, step):
                for upper in np.arange(top + step * 0.4, horizon - step * 0.4, step * 1.2):
                    lit = rng.random() < 0.12
                    color = (250, 222, 150) if lit else pane
                    corner = (int(left + step * 0.55), int(upper + step * 0.7))
                    cv2.rectangle(canvas.image, (int(left), int(upper)), corner, color, -1)
        x += width * rng.uniform(0.9, 1.25)


def _draw_vegetation(canvas: Canvas, rng: Rng, horizon: float) -> None:
    size = canvas.size
    for _ in range(int(rng.integers(2, 6))):
        x = rng.uniform(-0.05, 1.05) * size
        green: Color = (int(rng.integers(50, 120)), int(rng.integers(90, 150)), int(rng.integers(30, 70)))
        if rng.random() < 0.2:  # autumn
            green = (int(rng.integers(150, 200)), int(rng.integers(95, 130)), 45)
        tall = rng.random() < 0.5
        base = horizon + size * 0.04
        if tall:
            trunk = size * rng.uniform(0.012, 0.02)
            rectangle(canvas, x - trunk, base - size * 0.16, x + trunk, base, (88, 66, 48), "vegetation")
        center = base - size * (rng.uniform(0.16, 0.26) if tall else 0.03)
        for _ in range(9):
            radius = size * rng.uniform(0.03, 0.065)
            low = min(center + rng.normal(0, size * 0.025), base - radius * 0.6)
            at = np.array([x + rng.normal(0, size * 0.04), low])
            canvas.polygon(at + radius * CIRCLE, shade(green, rng.uniform(0.7, 1.2)), LABEL_IDS["vegetation"])


def add_texture(canvas: Canvas, rng: Rng) -> None:
    """Roughens each label in its own way."""
    strength = np.zeros((3, 256), dtype=np.float32)
    for name, values in _TEXTURE.items():
        strength[:, LABEL_IDS[name]] = values
    noise = np.zeros(canvas.labels.shape, dtype=np.float32)
    for grain, amount in zip(GRAINS[1:], strength, strict=True):
        noise += cv2.LUT(canvas.labels, amount[None]) * noise_field(rng, canvas.size, grain)
    canvas.image[:] = (canvas.image + noise[..., None]).clip(0, 255).astype(np.uint8)


def noise_field(rng: Rng, size: int, grain: int) -> NDArray[np.float32]:
    """Noise of unit variance and a grain of so many pixels, ``[size, size]``: a random window of a fixed, larger field.

    Cutting out is many times faster than drawing anew.
    """
    field = _large_field(2 * size, grain)
    top, left = rng.integers(0, size, 2)
    return field[top : top + size, left : left + size]


@lru_cache(maxsize=8)
def _large_field(size: int, grain: int) -> NDArray[np.float32]:
    coarse = np.random.default_rng((size, grain)).standard_normal((size // grain, size // grain), dtype=np.float32)
    field: NDArray[Any] = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
    return field
