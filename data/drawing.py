"""One sample of a dataset as a picture with its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from dyvision.visualize import as_image, denormalize, draw_label, draw_objects, fit, overlay_mask

#: width and height of a picture among others
TILE = (320, 240)


def draw_sample(
    sample: dict[str, Any],
    class_names: Sequence[str],
    class_colors: Sequence[Sequence[int]],
    normalize: object,
    tile: tuple[int, int] = TILE,
) -> Image.Image:
    """Draws a sample with its labels.

    Args:
        sample: As a dataset returns it.
        class_names: Names of the classes.
        class_colors: ``[r, g, b]`` of each.
        normalize: What made a tensor of the image: its ``mean`` and ``std``, if it has them, are taken back.
        tile: Width and height that the picture fills in one direction.
    """
    mean, std = getattr(normalize, "mean", (0.0, 0.0, 0.0)), getattr(normalize, "std", (1.0, 1.0, 1.0))
    image = denormalize(sample["image"], mean, std)
    pixels = as_image(image if image.shape[2] == 3 else image.repeat(3, axis=2))
    if "mask" in sample:
        # an evaluation sample has the stored label map, whatever became of the image
        height, width = sample["mask"].shape
        return fit(overlay_mask(pixels.resize((width, height)), sample["mask"], class_colors), *tile)
    shown = fit(pixels, *tile)
    if "label" in sample:
        return draw_label(shown, class_names[sample["label"]], class_colors[sample["label"]])
    if "target" in sample:
        return draw_objects(shown, sample["target"], class_names, class_colors, (pixels.height, pixels.width))
    return shown
