"""One sample of a dataset as a picture with its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from dyvision.visualize import as_image, denormalize, draw_boxes, draw_label, fit, overlay_mask

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
        target = sample["target"]
        classes = [label - 1 for label in target["labels"].tolist()]
        masks = None
        if "masks" in target:
            masks = [fit(as_image(_as_pixels(mask)), *tile).convert("L") for mask in target["masks"]]
            masks = [mask.point(lambda value: value > 127) for mask in masks]
        boxes = target["boxes"].numpy() * (shown.width / pixels.width)
        names, colors = [class_names[k] for k in classes], [class_colors[k] for k in classes]
        return draw_boxes(shown, boxes, names, colors, masks=masks)
    return shown


def _as_pixels(mask: Any) -> Image.Image:
    return Image.fromarray(mask.numpy() * 255).convert("RGB")
