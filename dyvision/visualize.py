"""Drawing labels, masks and boxes on images, for contact sheets and predictions.

Images are uint8 arrays ``[H, W, 3]`` or Pillow images; everything array-like (a CPU tensor, too) is accepted.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw

from dyvision.fonts import font_for
from dyvision.saving import replacing

Color = Sequence[int]
#: An image as this module takes it.
ImageLike = Any

_GOLDEN_RATIO = 0.618033988749895
_BACKGROUND = (255, 255, 255)
_INK = (30, 30, 30)


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


def denormalize(
    image: Any, mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (1.0, 1.0, 1.0)
) -> NDArray[np.uint8]:
    """What a network was given, as pixels again.

    Args:
        image: Float ``[3, H, W]``.
        mean: Channel means that were subtracted, in 0..1.
        std: Channel deviations it was divided by.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    values = np.asarray(image, dtype=np.float32).transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)
    return (values * 255).round().clip(0, 255).astype(np.uint8)


def as_image(image: ImageLike) -> Image.Image:
    """A Pillow image in RGB; a copy, so it may be drawn on.

    Raises:
        ValueError: If it is not ``[H, W, 3]`` of uint8.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"expected an image of uint8 [H, W, 3], got {array.dtype} {list(array.shape)}.")
    return Image.fromarray(np.ascontiguousarray(array))


def draw_label(image: ImageLike, text: str, color: Color = _INK, position: tuple[float, float] = (0, 0)) -> Image.Image:
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
    draw.rectangle((x, y, x + width, y + height), fill=_rgb(color))
    draw.text((x + 2 - left, y + 2 - top), text, fill=_readable(color), font=font)


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
    index = np.asarray(mask).astype(np.int64)
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
    present = [index for index in np.unique(np.asarray(mask)) if 0 <= index < len(names) and index != ignore_index]
    if not present:
        return out
    legend = draw_legend([names[index] for index in present], [colors[index] for index in present], out.width)
    sheet = Image.new("RGB", (max(out.width, legend.width), out.height + legend.height), _BACKGROUND)
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
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    for name, items in (("labels", labels), ("colors", colors), ("scores", scores), ("masks", masks)):
        if items is not None and len(items) != len(corners):
            raise ValueError(f"{len(corners)} boxes but {len(items)} {name}.")
    for number in range(len(corners) if masks is not None else 0):
        index = np.where(np.asarray(masks[number]) > 0, 0, 255)
        out = overlay_mask(out, index, [colors[number]], alpha=0.45)
    draw = ImageDraw.Draw(out)
    for box, color in zip(corners, colors, strict=True):
        draw.rectangle(tuple(box), outline=_rgb(color), width=max(1, round(out.width / 250)))
    for number, (box, label, color) in enumerate(zip(corners, labels, colors, strict=True)):
        text = label if scores is None else f"{label} {float(scores[number]):.2f}"
        _write(out, text, color, (box[0], box[1] - 11))
    return out


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
    out = Image.new("RGB", (width, y + 20), _BACKGROUND)
    draw = ImageDraw.Draw(out)
    for name, color, (left, top) in zip(names, colors, places, strict=True):
        draw.rectangle((left, top + 2, left + 11, top + 13), fill=_rgb(color), outline=_INK)
        draw.text((left + 16, top), name, fill=_INK, font=_font(name, width))
    return out


def fit(image: ImageLike, width: int, height: int) -> Image.Image:
    """Scales an image, proportions kept, until it fills ``width`` or ``height``."""
    out = as_image(image)
    scale = min(width / out.width, height / out.height)
    size = (max(1, round(out.width * scale)), max(1, round(out.height * scale)))
    return out.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def grid(images: Iterable[ImageLike], columns: int = 4, gap: int = 6, footer: ImageLike | None = None) -> Image.Image:
    """Lays images out in rows, in cells of the largest size.

    Args:
        images: At least one.
        columns: Images in a row.
        gap: Pixels between them.
        footer: Something below, such as a legend.

    Raises:
        ValueError: If there is no image.
    """
    tiles = [as_image(image) for image in images]
    if not tiles or columns < 1:
        raise ValueError(f"a grid needs images and columns, got {len(tiles)} and {columns}.")
    columns = min(columns, len(tiles))
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    below = None if footer is None else as_image(footer)
    total_width = columns * (width + gap) + gap
    total_height = rows * (height + gap) + gap
    size = (max(total_width, below.width if below else 0), total_height + (below.height if below else 0))
    sheet = Image.new("RGB", size, _BACKGROUND)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = gap + column * (width + gap) + (width - tile.width) // 2
        top = gap + row * (height + gap) + (height - tile.height) // 2
        sheet.paste(tile, (left, top))
    if below is not None:
        sheet.paste(below, (0, total_height))
    return sheet


def save(image: ImageLike, path: str | Path, software: str | None = None) -> Path:
    """Writes an image, making the folder if needed; the extension decides the format (PNG if there is none).

    A new file without an extension gets ``.png``; what exists under the very name (a pipe, a file) is what is written.

    Args:
        image: The image.
        path: The file.
        software: What the file says it was made by, where its format has EXIF.

    Returns:
        The file written.

    Raises:
        ValueError: If the extension is that of no picture.
        OSError: As for :func:`dyvision.saving.replacing`.
    """
    target = Path(path)
    if not target.suffix and not os.path.lexists(target):
        target = target.with_suffix(".png")
    known = Image.registered_extensions()
    kind = known.get(target.suffix.lower(), "PNG" if not target.suffix else None)
    if kind not in Image.SAVE:
        raise ValueError(f"{target}: {target.suffix!r} is no picture that can be written; give .png or .jpg")
    exif = Image.Exif()
    if software is not None:
        exif[ExifTags.Base.Software] = software
    with replacing(target) as part:
        as_image(image).save(part, format=kind, **({"exif": exif} if software is not None else {}))
    return target


def _rgb(color: Color) -> tuple[int, int, int]:
    return int(color[0]), int(color[1]), int(color[2])


def _readable(color: Color) -> tuple[int, int, int]:
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def _font(text: str, width: int) -> Any:
    return font_for(text, 11 if width <= 800 else 14)
