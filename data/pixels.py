"""Decoded pictures of any mode to 8-bit RGB, and pictures of labels to label ids."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyvision.data.picture import Picture

#: Is told what was found and what is done about it.
Tell = Callable[[str, str], None]

_BITS_PER_SAMPLE = 258  # TIFF tag
_COMMON_BITS = (8, 12, 16)
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")


def to_rgb(picture: Picture, bit_depth: int | None, tell: Tell) -> NDArray[np.uint8]:
    """Converts a picture to RGB of 8 bits.

    Grey pictures are repeated over the channels, transparency is dropped. Values of more than 8 bits are divided by the
    largest value of their bit depth: ``bit_depth``, else what the file says, else the smallest of 8, 12 and 16 bits
    that holds its values. Floating-point greys are read as 0 to 1, or, where a value is larger, as integers are.

    Args:
        picture: Decoded.
        bit_depth: Bits in use of pictures with more than 8 bits or in floating point; None finds out.
        tell: Is told of a depth that had to be guessed.

    Returns:
        uint8 ``[H, W, 3]``, turned.

    Raises:
        ValueError: If values are negative, not finite, or larger than 16 bits hold.
    """
    image = picture.image
    if image.mode.startswith("I") or image.mode == "F" or picture.deep is not None:
        values = _to_8_bits(picture.numbers(), bit_depth, _declared(picture), tell)
        if picture.inverted:
            values = 255 - values
        return picture.turn(values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2))
    if image.mode == "LAB":
        raise ValueError("its colours are CIE Lab; convert it to RGB")
    if picture.cut:
        tell("a picture of 16 bits in a format of which only 8 can be read",
             "read as its upper 8 bits; convert it to PNG or TIFF if fewer than 16 are in use")  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        if image.mode in ("RGBa", "La"):
            image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])
        return picture.turn(np.array(image.convert("RGB"), dtype=np.uint8))


def _declared(picture: Picture) -> float | None:
    """The value that the file says is white."""
    if picture.largest not in (None, 2**16 - 1):  # which is only what 16 bits hold
        return picture.largest
    bits = getattr(picture.image, "tag_v2", {}).get(_BITS_PER_SAMPLE)
    return 2 ** bits[0] - 1 if bits and bits[0] in (10, 12, 14) else None


def _to_8_bits(values: NDArray[Any], bit_depth: int | None, declared: float | None, tell: Tell) -> NDArray[np.uint8]:
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds values that are not finite (NaN or infinity); replace them")
    if low < 0:
        raise ValueError(f"it holds negative values (down to {low:g}); shift it to 0 and above")
    if bit_depth is not None:
        scale = 2.0**bit_depth - 1
    elif declared is not None:
        scale = declared
    elif values.dtype.kind == "f" and high <= 1:
        scale = 1.0
    else:
        bits = next((bits for bits in _COMMON_BITS if high < 2**bits), None)
        if bits is None:
            raise ValueError(f"its values go up to {high:g}; expected at most 16 bits, convert it or set bit_depth")
        scale = 2.0**bits - 1
        if bits < 16 and values.dtype.kind != "f":
            tell(
                f"a picture of more than 8 bits with values up to {2**bits - 1} only",
                f"read as {bits} bits; set bit_depth to the bits in use, so that all pictures are read alike",
            )
    return np.clip(np.rint(values.astype(np.float64) * (255 / scale)), 0, 255).astype(np.uint8)


def to_label_ids(picture: Picture, tell: Tell) -> NDArray[np.integer[Any]]:
    """Reads a picture of labels.

    The numbers that the file stores are the ids, whatever grey they are shown as; for a palette image its indices, for
    a bilevel image 0 and, where it is white, 1. Grey stored as RGB is read as grey.

    Args:
        picture: Decoded.
        tell: Is told of repairs.

    Returns:
        Integers ``[H, W]``, turned, of the type that the file stores.

    Raises:
        ValueError: If it is a picture in colour, or holds values that are not whole numbers, or
            more bits than can be read.
    """
    if picture.cut and picture.deep is None:
        raise ValueError("its ids have 16 bits, of which only 8 can be read in this format; save it as PNG")
    values: NDArray[Any] = picture.turn(picture.numbers())
    if picture.inverted:
        tell("a label map in which 0 is shown as white", "the stored numbers are read as ids")
    if values.ndim == 3:
        channels = values.shape[2]
        colors = values[:, :, : 1 if channels == 2 else 3]
        if picture.image.mode not in ("RGB", "RGBA", "LA", "RGBX") or (colors != colors[:, :, :1]).any():
            raise ValueError(
                f"a label image has one channel of label ids, this one has {channels} channels; use the labelIds "
                "files, not the colour pictures, or say with label_colors which colour is which class"
            )
        values = values[:, :, 0]
        tell("label ids stored as grey in a picture with several channels", "read as one channel")
    if values.dtype.kind == "f":
        whole = values.astype(np.int64, copy=False) if np.isfinite(values).all() else None
        if whole is None or (whole != values).any():
            raise ValueError(
                "a label image holds whole numbers, this one holds fractions or values that are not finite"
            )
        tell("label ids stored as floating-point numbers", "read as whole numbers")
        return whole
    return values


def to_packed_colors(picture: Picture) -> NDArray[np.int64]:
    """Colours as numbers ``red * 65536 + green * 256 + blue``, int64 ``[H, W]``, turned; palettes are resolved.

    Raises:
        ValueError: If they have 16 bits that are not those of colours of 8 bits.
    """
    rgb = np.asarray(picture.image.convert("RGB")).astype(np.int64)
    if picture.deep is not None:
        rgb = picture.deep.astype(np.int64)
        if not (rgb % 257).any():  # 8 bits stretched to 16
            rgb //= 257
    if (picture.cut and picture.deep is None) or rgb.max(initial=0) > 255:
        raise ValueError("its colours have 16 bits; save the label map with 8 bits per channel")
    return picture.turn((rgb[:, :, 0] << 16) | (rgb[:, :, 1] << 8) | rgb[:, :, 2])


def is_lossy(picture: Picture) -> bool:
    """Whether the file's format changes pixels when it saves them (a WebP may, or may not)."""
    return picture.image.format in _LOSSY
