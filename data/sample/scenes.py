"""Small street scenes, drawn from a seed: what the sample data show.

Textured surroundings (sky, buildings, vegetation, sidewalk, road), road users of five classes that hide one another,
things without a class, changing light and noise. Scenes are drawn at twice their size and reduced, which smooths the
edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dyvision.data.sample.canvas import Brush, Canvas
from dyvision.data.sample.shapes import SHAPES, clutter
from dyvision.data.sample.streets import GRAINS, LABEL_IDS, add_texture, draw_street, noise_field, rectangle

Rng = np.random.Generator

#: Classes of objects, in the order of their COCO ids.
OBJECT_CLASSES = ("person", "bicycle", "car", "bus", "traffic light")
#: Classes of everything else that is labelled.
STUFF_CLASSES = ("road", "sidewalk", "building", "vegetation", "sky")

# height of an object at the horizon and at the lower edge, in parts of the image
_HEIGHTS = {
    "person": (0.32, 0.58),
    "bicycle": (0.20, 0.36),
    "car": (0.21, 0.37),
    "bus": (0.24, 0.38),
    "traffic light": (0.19, 0.32),
}
_HALF_WIDTH = {"person": 0.2, "bicycle": 0.9, "car": 1.15, "bus": 1.1, "traffic light": 0.3}
_VEHICLES = ("bicycle", "car", "bus")
_CROWD_CHANCE = 0.1


class SceneObject(NamedTuple):
    """One object of a scene.

    Attributes:
        name: Class.
        number: Its value in the instance map.
        visible: Part of what was drawn inside the image that nothing hides, 0..1.
        crowd: Whether it stands for a group.
    """

    name: str
    number: int
    visible: float
    crowd: bool


class Scene(NamedTuple):
    """One scene; ``S`` is its size.

    Attributes:
        image: uint8 ``[S, S, 3]``.
        labels: uint8 ``[S, S]``, Cityscapes labelIds.
        instances: uint8 ``[S, S]``, number of the object, 0 for none.
        fine_image: uint8 ``[2S, 2S, 3]``, before it was reduced.
        fine_instances: uint8 ``[2S, 2S]``.
        objects: In the order of their numbers.
    """

    image: NDArray[Any]
    labels: NDArray[Any]
    instances: NDArray[Any]
    fine_image: NDArray[Any]
    fine_instances: NDArray[Any]
    objects: list[SceneObject]


def draw_scene(rng: Rng, size: int = 128, classes: Sequence[str] = OBJECT_CLASSES) -> Scene:
    """Draws a scene.

    Args:
        rng: Everything is drawn from it.
        size: Height and width in pixels.
        classes: Which objects there may be; none at all if empty.
    """
    canvas = Canvas(2 * size)
    horizon = rng.uniform(0.36, 0.48) * canvas.size
    vanishing = rng.uniform(0.3, 0.7) * canvas.size
    draw_street(canvas, rng, horizon, vanishing)
    add_texture(canvas, rng)
    objects = _draw_objects(canvas, rng, horizon, vanishing, classes) if classes else []
    fine = _light(canvas, rng)
    return Scene(
        cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA),
        canvas.labels[::2, ::2].copy(),
        canvas.instances[::2, ::2].copy(),
        fine,
        canvas.instances,
        objects,
    )


def _draw_objects(
    canvas: Canvas, rng: Rng, horizon: float, vanishing: float, classes: Sequence[str]
) -> list[SceneObject]:
    plan = []
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(int(rng.integers(3, 6))):
        name = classes[int(rng.integers(len(classes)))]
        for _ in range(12):
            depth = rng.uniform(0.15, 1.0)
            near, far = _HEIGHTS[name][1], _HEIGHTS[name][0]
            height = canvas.size * (far + (near - far) * depth) * rng.uniform(0.88, 1.12)
            y = horizon + (canvas.size * 0.99 - horizon) * depth
            half = _HALF_WIDTH[name] * height
            spread = canvas.size * (0.2 + 0.45 * depth) if name in _VEHICLES else canvas.size * 0.6
            x = rng.uniform(vanishing - spread, vanishing + spread)
            margin = min(half * rng.uniform(0.75, 1.3), canvas.size / 2)  # some reach over the border
            x = float(np.clip(x, margin, canvas.size - margin))
            top = y - height * (2.4 if name == "traffic light" else 1.0)
            box = (x - half, top, x + half, top + height)
            if all(_overlap(box, other) < 0.2 for other in taken):
                taken.append(box)
                plan.append((y, x, height, name))
                break
    for _ in range(int(rng.integers(0, 3))):
        depth = rng.uniform(0.1, 1.0)
        y = horizon + (canvas.size - horizon) * depth
        plan.append((y, rng.uniform(0, canvas.size), canvas.size * (0.08 + 0.1 * depth), "clutter"))
    if rng.random() < _CROWD_CHANCE:
        plan.append((horizon + canvas.size * 0.06, rng.uniform(0.15, 0.85) * canvas.size, canvas.size * 0.2, "crowd"))
    drawn: list[tuple[str, int]] = []  # class and pixels of each object, as long as nothing hides it
    for y, x, height, name in sorted(plan):
        _shadow(canvas, x, y, height * _HALF_WIDTH.get(name, 0.4), height)
        mirror, angle = bool(rng.random() < 0.5), float(rng.normal(0, 0.03))
        if name == "clutter":
            clutter(Brush(canvas, x, y, height, LABEL_IDS["static"], 0, mirror, angle), rng)
            continue
        number = len(drawn) + 1
        if name == "crowd":
            for _ in range(int(rng.integers(5, 9))):
                at = (x + rng.normal(0, height * 0.5), y + rng.normal(0, height * 0.04))
                SHAPES["person"](Brush(canvas, *at, height, LABEL_IDS["person"], number, mirror, angle), rng)
        else:
            if name == "traffic light":
                rectangle(canvas, x - height * 0.07, y - 1.5 * height, x + height * 0.07, y, (96, 98, 102), "pole")
                y -= height * 1.4
            SHAPES[name](Brush(canvas, x, y, height, LABEL_IDS[name], number, mirror, angle), rng)
        drawn.append((name, int(np.count_nonzero(canvas.instances == number))))
    return [
        SceneObject("person" if name == "crowd" else name, number, left / pixels, name == "crowd")
        for number, (name, pixels) in enumerate(drawn, start=1)
        if pixels and (left := int(np.count_nonzero(canvas.instances == number)))
    ]


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(width, 0) * max(height, 0) / smaller


def _shadow(canvas: Canvas, x: float, y: float, half: float, height: float) -> None:
    left, right = (int(np.clip(value, 0, canvas.size)) for value in (x - half * 1.1, x + half * 1.1))
    top, bottom = (int(np.clip(value, 0, canvas.size)) for value in (y - height * 0.06, y + height * 0.07))
    patch = canvas.image[top:bottom, left:right]
    if patch.size:
        shape = np.zeros(patch.shape[:2], dtype=np.uint8)
        middle = (patch.shape[1] // 2, patch.shape[0] // 2)
        cv2.ellipse(shape, middle, middle, 0, 0, 360, 1, -1)
        patch[shape > 0] = (patch[shape > 0] * 0.6).astype(np.uint8)


def _light(canvas: Canvas, rng: Rng) -> NDArray[Any]:
    """Exposure, colour of the light, a slope of brightness, now and then blur, and noise."""
    gain = rng.uniform(0.92, 1.08, size=3) * rng.uniform(0.75, 1.15)
    curve = (np.arange(256) / 255) ** rng.uniform(0.85, 1.2) * 255
    image: NDArray[Any] = cv2.LUT(canvas.image, (curve[:, None] * gain).astype(np.float32)[None])
    across, down = rng.uniform(-0.15, 0.15, size=2)
    line = np.linspace(-1, 1, canvas.size, dtype=np.float32)
    image *= (1 + np.float32(across) * line[None, :] + np.float32(down) * line[:, None])[..., None]
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.6, 1.2)))
    grain = [noise_field(rng, canvas.size, GRAINS[0]) for _ in range(3)]
    image += np.float32(rng.uniform(2, 6)) * np.stack(grain, axis=2)
    return image.round().clip(0, 255).astype(np.uint8)
