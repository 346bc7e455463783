"""Pictures: from arrays and files, scaled, laid out in a grid, and saved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from dyvision.saving import replacing
from dyvision.visualize.colors import BACKGROUND

#: an image as this package takes it
ImageLike = Any


def as_array(values: Any) -> NDArray[Any]:
    """What is array-like as an array; a tensor of any device and type, too."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
    return np.asarray(values)


def read_rgb(path: str | Path) -> NDArray[np.uint8]:
    """A picture file as uint8 ``[H, W, 3]``, as Pillow converts it.

    Raises:
        OSError: If it cannot be read.
    """
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


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
    values = as_array(image).astype(np.float32).transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)
    return (values * 255).round().clip(0, 255).astype(np.uint8)


def as_image(image: ImageLike) -> Image.Image:
    """A Pillow image in RGB; a copy, so it may be drawn on.

    Raises:
        ValueError: If it is not ``[H, W, 3]`` of uint8.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    array = as_array(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"expected an image of uint8 [H, W, 3], got {array.dtype} {list(array.shape)}.")
    return Image.fromarray(np.ascontiguousarray(array))


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
    sheet = Image.new("RGB", size, BACKGROUND)
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
