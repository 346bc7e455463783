"""A decoded picture with the numbers that its file stores: Pillow shows pictures, and changes numbers for that.

Pillow keeps the high byte of 16 bits where there are several channels, stretches greys of other than 8 and 16 bits to
the full range, inverts TIFFs in which 0 is white, and turns TIFFs upright.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_ORIENTATION = 0x0112  # EXIF tag
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_PHOTOMETRIC = 256, 257, 262
_WHITE_IS_ZERO = 0
_BACK = {6: 8, 8: 6}  # the other orientations undo themselves
_FEW_BITS = re.compile(r"L;([24])")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: As Pillow shows it.
        orientation: What EXIF says, 1 to 8.
        upright: Whether ``image`` and ``deep`` are turned already.
        apply: Whether to read it upright; otherwise as it is stored.
        deep: uint16 ``[H, W, 3]`` of a picture in colour (or of grey with transparency) with 16 bits, which Pillow cuts
            to 8; None otherwise.
        cut: Whether it has such bits; without ``deep`` they cannot be read.
        largest: The number that the file shows as white, if Pillow stretches it; 65535 in a netpbm file of 16 bits.
        inverted: Whether the file stores 0 for white.
    """

    image: Image.Image
    orientation: int = 1
    upright: bool = False
    apply: bool = True
    deep: NDArray[np.uint16] | None = None
    cut: bool = False
    largest: int | None = None
    inverted: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, turned."""
        width, height = self.image.size
        return (width, height) if self._to_turn() >= 5 else (height, width)

    def as_stored(self) -> Picture:
        """The same with its orientation ignored."""
        return dataclasses.replace(self, apply=False)

    def _to_turn(self) -> int:
        """The orientation to apply to what Pillow gives."""
        if self.apply == self.upright:
            return 1
        return self.orientation if self.apply else _BACK.get(self.orientation, self.orientation)

    def numbers(self) -> NDArray[Any]:
        """What the file stores, ``[H, W]`` or ``[H, W, C]``, not turned; of a bilevel picture, 1 is white."""
        if self.deep is not None:
            return self.deep
        values: NDArray[Any] = np.asarray(self.image)
        if values.dtype == np.bool_:
            return values.astype(np.uint8)
        if self.inverted and values.dtype == np.uint8:
            values = 255 - values
        full = 255 if values.dtype == np.uint8 else 65535
        if self.largest not in (None, full) and values.dtype.kind != "f":
            # exact: Pillow's rounding moved a number by less than half of what separates two
            values = np.rint(values * (self.largest / full)).astype(values.dtype)
        return values

    def turn(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turns ``[H, W, ...]`` as the orientation says, or back."""
        turned = self._to_turn()
        if turned in (5, 6, 7, 8):
            array = np.swapaxes(array, 0, 1)
        if turned in (3, 4, 7, 8):
            array = array[::-1]
        if turned in (2, 3, 6, 7):
            array = array[:, ::-1]
        return np.ascontiguousarray(array)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, as it is stored, where there is none."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is written by everybody; one that cannot be parsed says nothing, whatever Pillow raises
        return 1
    return turned if turned in range(2, 9) else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Height and width as stored; Pillow opens TIFFs with those of the upright picture."""
    tags = getattr(image, "tag_v2", {})
    height, width = tags.get(_TIFF_HEIGHT), tags.get(_TIFF_WIDTH)
    return (int(height), int(width)) if image.format == "TIFF" and height and width else (image.height, image.width)


def decode(image: Image.Image, path: str | Path) -> Picture:
    """Loads an opened image.

    Args:
        image: Opened, not loaded.
        path: Its file.

    Raises:
        OSError: If it cannot be decoded (and what else Pillow raises then).
    """
    # how the pixels lie in the file; described with Pillow's plugins, and gone once it is loaded
    stored = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in getattr(image, "tile", ())]
    modes = [str(arguments[0]) for arguments in stored if arguments]
    codec = str(image.tile[0][0]) if modes and isinstance(image, ImageFile.ImageFile) else ""
    # only for TIFF: to ask a PNG is to load it, and a second load of a damaged one is silent
    before = orientation(image) if image.format == "TIFF" else 1
    if before != 1 and isinstance(image, ImageFile.ImageFile):
        image.filename = ""  # Pillow maps raw greys of a named file into memory with the sides of the upright picture
    image.load()
    after = orientation(image)
    largest = None
    few = _FEW_BITS.match(modes[0]) if modes and image.mode == "L" else None
    if few:
        largest = 2 ** int(few[1]) - 1
    elif codec in ("ppm", "ppm_plain") and len(stored[0]) > 1:  # bitmaps have no largest value
        largest = stored[0][1]
    many = any(";16" in mode for mode in modes) or (image.format == "PPM" and (largest or 0) > 255)
    many |= image.format == "SGI" and bool(stored) and (codec == "SGI16" or stored[0][-1] == 2)
    cut = many and image.mode in ("L", "RGB", "RGBA", "RGBX", "RGBa", "LA")
    return Picture(
        image,
        before if before != 1 else after,
        upright=before != 1 and after == 1,
        deep=_read_deep(path, image) if cut else None,
        cut=cut,
        largest=largest,
        inverted=image.mode != "1" and getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO,
    )


def _read_deep(path: str | Path, image: Image.Image) -> NDArray[np.uint16] | None:
    try:
        # OpenCV turns TIFFs as Pillow does
        values = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] < 3:
        return None
    if values.shape[:2] != (image.height, image.width):
        return None
    deep: NDArray[np.uint16] = np.ascontiguousarray(values[:, :, 2::-1]).astype(np.uint16, copy=False)
    return deep
