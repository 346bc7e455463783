"""Stylised road users for the sample scenes, as polygons.

Every shape is drawn in its own coordinates: the origin stands on the ground, y points up, the object is about 1 high.
Colours are random; what tells the classes apart is the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from dyvision.data.sample.canvas import Brush, Color, random_color, shade

_TIRE = (28, 28, 32)
_SKIN = ((244, 208, 177), (224, 172, 128), (172, 118, 80), (108, 72, 50))


def _wheels(brush: Brush, places: Sequence[float], radius: float) -> None:
    for x in places:
        brush.disc(x, radius, radius, _TIRE)
        brush.disc(x, radius, radius * 0.5, (150, 150, 155))


def _glass(rng: np.random.Generator) -> Color:
    light = rng.integers(60, 190)
    return int(light * 0.8), int(light * 0.95), int(light)


def car(brush: Brush, rng: np.random.Generator) -> None:
    """Low body with a cabin on it; from the side or from the front."""
    color, glass = random_color(rng), _glass(rng)
    if rng.random() < 0.25:
        half = rng.uniform(0.6, 0.7)
        _wheels(brush, (-half * 0.75, half * 0.75), 0.17)
        hood = [(-half, 0.12), (half, 0.12), (half, 0.55), (half * 0.9, 0.62), (-half * 0.9, 0.62), (-half, 0.55)]
        brush.polygon(hood, color)
        brush.polygon([(-half * 0.88, 0.6), (half * 0.88, 0.6), (half * 0.62, 1.0), (-half * 0.62, 1.0)], color)
        brush.polygon([(-half * 0.76, 0.62), (half * 0.76, 0.62), (half * 0.55, 0.93), (-half * 0.55, 0.93)], glass)
        brush.box(-half * 0.5, 0.2, half * 0.5, 0.32, shade(color, 0.5))
        for side in (-1, 1):
            brush.disc(side * half * 0.75, 0.43, 0.09, (250, 244, 205))
        return
    half = rng.uniform(1.0, 1.25)
    front = rng.uniform(0.3, 0.45) * half  # where the cabin ends
    back = rng.uniform(0.45, 0.8) * half
    body = [(-half, 0.2), (half, 0.2), (half, 0.48), (half * 0.9, 0.6), (-half * 0.95, 0.64), (-half, 0.5)]
    brush.polygon(body, color)
    brush.polygon([(-back, 0.6), (front + 0.2, 0.6), (front - 0.15, 1.0), (-back + 0.28, 1.0)], color)
    brush.polygon([(-back + 0.14, 0.63), (front + 0.06, 0.63), (front - 0.19, 0.92), (-back + 0.32, 0.92)], glass)
    middle = (front - back) / 2
    brush.box(middle - 0.03, 0.6, middle + 0.03, 0.96, color)
    brush.box(-half, 0.2, half, 0.3, shade(color, 0.5))
    brush.box(-half * 0.95, 0.4, half * 0.95, 0.46, shade(color, 1.5))
    brush.box(half - 0.12, 0.42, half, 0.52, (250, 240, 190))
    brush.box(-half, 0.45, -half + 0.08, 0.54, (200, 40, 30))
    _wheels(brush, (-half * 0.6, half * 0.6), 0.22)


def bus(brush: Brush, rng: np.random.Generator) -> None:
    """A long tall box in two colours with a row of windows and a door."""
    color, glass = random_color(rng), _glass(rng)
    half = rng.uniform(0.95, 1.2)
    brush.box(-half, 0.12, half, 1.0, color)
    brush.box(-half, 0.12, half, 0.4, random_color(rng))
    brush.box(-half, 0.92, half, 1.0, shade(color, 0.7))
    count = int(rng.integers(4, 7))
    step = (2 * half - 0.5) / count
    for number in range(count):
        left = -half + 0.1 + number * step
        brush.box(left, 0.5, left + step * 0.8, 0.86, glass)
    brush.box(half - 0.34, 0.16, half - 0.1, 0.86, shade(glass, 0.8))
    brush.bar((half - 0.22, 0.16), (half - 0.22, 0.86), 0.03, color)
    _wheels(brush, (-half * 0.62, half * 0.5), 0.16)


def person(brush: Brush, rng: np.random.Generator) -> None:
    """Head, trunk, and limbs in some phase of a walk."""
    skin = _SKIN[int(rng.integers(len(_SKIN)))]
    shirt, trousers = random_color(rng), random_color(rng, (0.1, 0.6))
    swing = rng.uniform(-0.14, 0.14)
    wide = rng.uniform(0.115, 0.15)
    for side in (-1, 1):
        foot = side * abs(swing) + 0.02 * side
        brush.bar((side * 0.045, 0.5), (foot, 0.02), 0.1, shade(trousers, 1.0 if side > 0 else 0.8))
        brush.bar((foot - 0.02, 0.025), (foot + 0.09, 0.025), 0.05, (40, 34, 30))
    for side in (-1, 1):
        hand = (side * wide - side * swing * 0.6 + side * 0.05, 0.44)
        brush.bar((side * wide * 0.85, 0.76), hand, 0.075, shade(shirt, 0.85))
        brush.disc(*hand, 0.035, skin)
    right = [(wide * 0.8, 0.46), (wide, 0.78), (wide * 0.5, 0.82)]
    brush.polygon([*right, *((-x, y) for x, y in reversed(right))], shirt)
    stripe = shade(shirt, 0.5 if sum(shirt) > 330 else 2.0)
    for y in (0.52, 0.62, 0.72):
        brush.box(-wide * 0.82, y, wide * 0.82, y + 0.045, stripe)
    brush.disc(0.0, 0.91, 0.085, skin)
    hair = random_color(rng, (0.1, 0.5))
    curls = [(-0.09, 0.91), (-0.07, 0.98), (0.0, 1.01), (0.07, 0.98), (0.085, 0.93), (0.0, 0.95)]
    brush.polygon(curls, shade(hair, 0.5))
    if rng.random() < 0.3:
        brush.box(-wide - 0.12, 0.5, -wide + 0.02, 0.76, random_color(rng))


def bicycle(brush: Brush, rng: np.random.Generator) -> None:
    """Two wheels and a frame; one sees through the wheels, but they belong to it."""
    color = random_color(rng, (0.5, 1.0))
    radius, apart = 0.34, rng.uniform(0.5, 0.58)
    for x in (-apart, apart):
        brush.disc(x, radius, radius, None)
        turn = np.linspace(0, 2 * np.pi, 17)
        rim = [(x + radius * 0.93 * np.cos(a), radius + radius * 0.93 * np.sin(a)) for a in turn]
        for start, end in pairwise(rim):
            brush.bar(start, end, 0.085, _TIRE)
        for start, end in ((rim[1], rim[9]), (rim[5], rim[13])):
            brush.bar(start, end, 0.025, (160, 160, 165))
    pedal, saddle, head = (-0.08, radius - 0.02), (-0.24, 0.8), (apart - 0.16, 0.8)
    brush.polygon([pedal, (saddle[0] + 0.03, 0.72), (head[0], 0.72)], None)
    hub = (-apart, radius)
    for start, end in ((pedal, saddle), (pedal, head), (saddle, head), (hub, pedal), (hub, saddle)):
        brush.bar(start, end, 0.075, color)
    brush.bar((apart, radius), (head[0] - 0.02, 0.95), 0.075, color)
    brush.bar((head[0] - 0.12, 0.96), (head[0] + 0.14, 0.92), 0.07, (45, 45, 50))
    brush.bar((saddle[0] - 0.13, 0.85), (saddle[0] + 0.11, 0.85), 0.09, (45, 40, 38))


def traffic_light(brush: Brush, rng: np.random.Generator) -> None:
    """A housing with three lamps, one of them lit. Its pole is another label."""
    housing = shade(random_color(rng, (0.0, 0.7)), 0.4)
    brush.box(-0.24, 0.0, 0.24, 1.0, housing)
    lit = int(rng.integers(3))
    for number, lamp in enumerate(((235, 50, 40), (250, 190, 50), (60, 220, 110))):
        brush.disc(0.0, 0.82 - 0.32 * number, 0.135, lamp if number == lit else shade(lamp, 0.28))


def clutter(brush: Brush, rng: np.random.Generator) -> None:
    """Something without a class: a crate, a cone, a barrel or a bin, in colours like everything else."""
    color, kind = random_color(rng), rng.integers(4)
    if kind == 0:
        half = rng.uniform(0.4, 0.8)
        brush.box(-half, 0, half, 1, color)
        brush.bar((-half, 0.05), (half, 0.95), 0.1, shade(color, 0.7))
        brush.bar((-half, 0.95), (half, 0.05), 0.1, shade(color, 0.7))
    elif kind == 1:
        brush.polygon([(-0.4, 0), (0.4, 0), (0.08, 1), (-0.08, 1)], color)
        brush.polygon([(-0.27, 0.35), (0.27, 0.35), (0.2, 0.55), (-0.2, 0.55)], (240, 240, 240))
    elif kind == 2:
        brush.box(-0.35, 0.05, 0.35, 0.95, color)
        brush.disc(0, 0.95, 0.35, shade(color, 1.2), aspect=0.3)
        brush.disc(0, 0.05, 0.35, color, aspect=0.3)
        brush.box(-0.35, 0.4, 0.35, 0.52, shade(color, 0.6))
    else:
        brush.polygon([(-0.3, 0), (0.3, 0), (0.38, 0.85), (-0.38, 0.85)], color)
        brush.box(-0.44, 0.85, 0.44, 1.0, shade(color, 0.6))


#: How each class is drawn.
SHAPES: dict[str, Callable[[Brush, np.random.Generator], None]] = {
    "person": person,
    "bicycle": bicycle,
    "car": car,
    "bus": bus,
    "traffic light": traffic_light,
}
