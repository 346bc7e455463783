"""Labels, masks and boxes on images, and legends of their colours.

Images are uint8 arrays ``[H, W, 3]`` or Pillow images; everything array-like is accepted, a tensor of any device, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dyvision.visualize.colors import BACKGROUND, INK, Color, readable_on, rgb
from dyvision.visualize.fonts import font_for
from dyvision.visualize.pictures import ImageLike, as_array, as_image


def draw_label(image: ImageLike, text: str, color: Color = INK, position: tuple[float, float] = (0, 0)) -> Image.Image:
    """Writes a text on a coloured ground.

    Args:
        image: Any size.
        text: One line.
        color: Of the ground; the letters are black or white, whichever reads better.
        position: Left and upper edge in pixels; moved so that the text lies inside the image where it fits.
    """
    out = as_image(image)
    _write(out, text, color, position)
    return out


def _write(out: Image.Image, text: str, color: Color, position: tuple[float, float]) -> None:
    draw = ImageDraw.Draw(out)
    text = " ".join(text.split())
    font = _font(text, out.width)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0.0, min(position[0], out.width - width))
    y = max(0.0, min(position[1], out.height - height))
    draw.rectangle((x, y, x + width, y + height), fill=rgb(color))
    draw.text((x + 2 - left, y + 2 - top), text, fill=readable_on(color), font=font)


def overlay_mask(
    image: ImageLike, mask: Any, colors: Sequence[Color], alpha: float = 0.55, ignore_index: int = 255
) -> Image.Image:
    """Lays a map of class indices over an image.

    Args:
        image: ``[H, W, 3]``.
        mask: Integers ``[H, W]``; values without a colour, and ``ignore_index``, stay transparent.
        colors: One per class.
        alpha: Weight of the colour, 0..1.
        ignore_index: Index of pixels without a label.

    Raises:
        ValueError: If mask and image differ in size.
    """
    pixels = np.asarray(as_image(image)).astype(np.float32)
    index = as_array(mask).astype(np.int64)
    if index.shape != pixels.shape[:2]:
        raise ValueError(f"the mask is {list(index.shape)}, its image {list(pixels.shape[:2])}.")
    shown = (index >= 0) & (index < len(colors)) & (index != ignore_index)
    table = np.asarray(colors, dtype=np.float32).reshape(-1, 3)
    pixels[shown] = (1 - alpha) * pixels[shown] + alpha * table[index[shown]]
    return Image.fromarray(pixels.round().astype(np.uint8))


def overlay_with_legend(
    image: ImageLike, mask: Any, names: Sequence[str], colors: Sequence[Color], ignore_index: int = 255
) -> Image.Image:
    """:func:`overlay_mask`, and below it a legend of the classes that occur.

    Args:
        image: ``[H, W, 3]``.
        mask: Integers ``[H, W]``.
        names: One per class.
        colors: One per class.
        ignore_index: Index of pixels without a label.

    Returns:
        The picture in its own size at the top left; without any class just that.

    Raises:
        ValueError: If mask and image differ in size.
    """
    out = overlay_mask(image, mask, colors, ignore_index=ignore_index)
    legend = legend_of([mask], names, colors, out.width, ignore_index)
    if legend is None:
        return out
    sheet = Image.new("RGB", (max(out.width, legend.width), out.height + legend.height), BACKGROUND)
    sheet.paste(out, (0, 0))
    sheet.paste(legend, (0, out.height))
    return sheet


def draw_boxes(
    image: ImageLike,
    boxes: Any,
    labels: Sequence[str],
    colors: Sequence[Color],
    scores: Sequence[float] | None = None,
    masks: Any = None,
) -> Image.Image:
    """Draws boxes with their names, and masks below them.

    Args:
        image: ``[H, W, 3]``.
        boxes: ``[N, 4]`` xyxy in pixels.
        labels: Name of each box.
        colors: Colour of each box.
        scores: Confidence of each box, 0..1, written behind the name.
        masks: ``[N, H, W]`` of 0 and 1.

    Raises:
        ValueError: If the numbers of boxes, labels, colours, scores and masks differ.
    """
    out = as_image(image)
    corners = as_array(boxes).astype(np.float64).reshape(-1, 4)
    for name, items in (("labels", labels), ("colors", colors), ("scores", scores), ("masks", masks)):
        if items is not None and len(items) != len(corners):
            raise ValueError(f"{len(corners)} boxes but {len(items)} {name}.")
    for number in range(len(corners) if masks is not None else 0):
        index = np.where(as_array(masks[number]) > 0, 0, 255)
        out = overlay_mask(out, index, [colors[number]], alpha=0.45)
    draw = ImageDraw.Draw(out)
    for box, color in zip(corners, colors, strict=True):
        draw.rectangle(tuple(box), outline=rgb(color), width=max(1, round(out.width / 250)))
    for number, (box, label, color) in enumerate(zip(corners, labels, colors, strict=True)):
        text = label if scores is None else f"{label} {float(scores[number]):.2f}"
        _write(out, text, color, (box[0], box[1] - 11))
    return out


def draw_objects(
    image: ImageLike,
    objects: Mapping[str, Any],
    names: Sequence[str],
    colors: Sequence[Color],
    size: Sequence[int] | None = None,
) -> Image.Image:
    """Draws objects as detectors and data sets hold them.

    Args:
        image: ``[H, W, 3]``.
        objects: ``boxes`` ``[N, 4]`` xyxy, ``labels`` ``[N]`` from 1, and if there are some ``scores`` ``[N]`` and
            ``masks`` ``[N, H, W]`` of 0 and 1.
        names: One per class.
        colors: One per class.
        size: Height and width of the image that boxes and masks belong to, if it was scaled since.

    Raises:
        ValueError: If the numbers of boxes, labels, scores and masks differ.
    """
    out = as_image(image)
    height, width = size if size is not None else (out.height, out.width)
    scale = np.array([out.width / width, out.height / height] * 2)
    classes = [label - 1 for label in as_array(objects["labels"]).tolist()]
    scores, masks = objects.get("scores"), objects.get("masks")
    return draw_boxes(
        out,
        as_array(objects["boxes"]).reshape(-1, 4) * scale,
        [names[index] for index in classes],
        [colors[index] for index in classes],
        None if scores is None else as_array(scores).tolist(),
        None if masks is None else [_scaled_mask(mask, out.size) for mask in masks],
    )


def _scaled_mask(mask: Any, size: tuple[int, int]) -> Any:
    image = Image.fromarray((as_array(mask) > 0).astype(np.uint8) * 255)
    if image.size == size:
        return image
    shrinks = size[0] < image.width
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC)) > 127


def legend_of(
    maps: Iterable[Any], names: Sequence[str], colors: Sequence[Color], width: int, ignore_index: int | None = None
) -> Image.Image | None:
    """A legend of the classes that occur in label maps, where a colour is all that tells them.

    Args:
        maps: Integers of any shape.
        names: One per class.
        colors: One per class.
        width: As for :func:`draw_legend`.
        ignore_index: Index of pixels without a label.

    Returns:
        The strip; None if no class occurs.
    """
    found = {int(index) for one in maps for index in np.unique(as_array(one))} - {ignore_index}
    present = sorted(index for index in found if 0 <= index < len(names))
    if not present:
        return None
    return draw_legend([names[index] for index in present], [colors[index] for index in present], width)


def draw_legend(names: Sequence[str], colors: Sequence[Color], width: int) -> Image.Image:
    """A strip of colour patches with names, ``width`` pixels wide or as the longest name, and as high as needed."""
    names = [" ".join(name.split()) for name in names]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lengths = [16 + int(measure.textlength(name, font=_font(name, width))) + 12 for name in names]
    width = max([width, *(6 + needed for needed in lengths)])
    places, x, y = [], 6, 4
    for needed in lengths:
        if x > 6 and x + needed > width:
            x, y = 6, y + 18
        places.append((x, y))
        x += needed
    out = Image.new("RGB", (width, y + 20), BACKGROUND)
    draw = ImageDraw.Draw(out)
    for name, color, (left, top) in zip(names, colors, places, strict=True):
        draw.rectangle((left, top + 2, left + 11, top + 13), fill=rgb(color), outline=INK)
        draw.text((left + 16, top), name, fill=INK, font=_font(name, width))
    return out


def _font(text: str, width: int) -> Any:
    return font_for(text, 11 if width <= 800 else 14)
