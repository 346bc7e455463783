"""Finding and decoding images: every file the readers open goes through here."""

from __future__ import annotations

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dyvision.data.errors import DataError
from dyvision.data.findings import Findings
from dyvision.data.listing import IMAGE_EXTENSIONS, find_images, is_image, list_folders, list_images
from dyvision.data.picture import Picture, decode, orientation, stored_size
from dyvision.data.pixels import Tell, to_label_ids, to_rgb
from dyvision.file_kinds import as_address

__all__ = (
    "IMAGE_EXTENSIONS",
    "MAX_IMAGE_PIXELS",
    "ImageReader",
    "Orientation",
    "find_images",
    "image_size",
    "is_image",
    "list_folders",
    "list_images",
    "open_image",
    "read_image",
    "read_label_map",
    "read_lines",
    "read_text",
)

#: What to do with the orientation that EXIF says: leave the pixels as they are stored, or turn them upright.
Orientation = Literal["ignore", "apply"]

#: Pixels that an image may have unless told otherwise: 16384 x 16384.
MAX_IMAGE_PIXELS = 2**28

_pillow_limit = threading.RLock()


class ImageReader:
    """How the pictures of a data set are read.

    Args:
        exif_orientation: ``"ignore"`` gives the pixels as they are stored, as torchvision does; ``"apply"`` turns them
            upright, as most viewers and labelling tools do.
        max_image_pixels: A file that claims more pixels is refused before it is decoded.
        bit_depth: Bits in use of greys with more than 8 bits; None finds out for each picture.

    Attributes:
        findings: Where doubts go; if None, each kind is one warning per process.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        exif_orientation: Orientation = "ignore",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        bit_depth: int | None = None,
    ) -> None:
        if exif_orientation not in ("ignore", "apply"):
            raise ValueError(f"exif_orientation={exif_orientation!r}: expected 'ignore' or 'apply'.")
        if max_image_pixels < 1:
            raise ValueError(f"max_image_pixels={max_image_pixels}: expected at least 1.")
        if bit_depth is not None and not 1 <= bit_depth <= 32:
            raise ValueError(f"bit_depth={bit_depth}: expected 1 to 32, or None.")
        self.exif_orientation: Orientation = exif_orientation
        self.max_image_pixels = max_image_pixels
        self.bit_depth = bit_depth
        self.findings: Findings | None = None
        self._told: set[str] = set()

    def __call__(self, path: str | Path, labelled: bool = True) -> NDArray[np.uint8]:
        """Decodes a picture; see :func:`read_image`.

        Args:
            path: The file.
            labelled: Whether labels were drawn on it; then an orientation that is ignored is told.
        """
        return self._pixels(open_image(path, self.max_image_pixels), path, labelled)

    def convert(self, image: Image.Image, name: str) -> NDArray[np.uint8]:
        """The same of an image of Pillow's that is open already; ``name`` is what messages call it."""
        with _naming(name, self.max_image_pixels):
            if image.width * image.height > self.max_image_pixels:
                raise _TooLargeError(f"{image.height}x{image.width}")
            picture = decode(image, getattr(image, "filename", "") or name)
        return self._pixels(picture, name, labelled=False)

    def _pixels(self, picture: Picture, path: str | Path, labelled: bool) -> NDArray[np.uint8]:
        if picture.orientation != 1 and self.exif_orientation == "ignore" and labelled:
            self._tell(
                path,
                f"the EXIF orientation is {picture.orientation}, and most tools label the upright picture",
                "read as it is stored; set exif_orientation to 'apply' if labels were drawn on the upright picture",
            )
        with _naming(path, self.max_image_pixels):
            try:
                return to_rgb(self._turned(picture), self.bit_depth, self.tell_about(path))
            except ValueError as error:
                raise DataError(f"{path}: the image cannot be used: {error}.") from error

    def label_image(self, path: str | Path) -> Picture:
        """Opens a picture of labels, turned as the pictures are."""
        return self._turned(open_image(path, self.max_image_pixels))

    def _turned(self, picture: Picture) -> Picture:
        return picture if self.exif_orientation == "apply" else picture.as_stored()

    def tell_about(self, path: str | Path, outcome: Literal["repaired", "warned"] = "warned") -> Tell:
        """Who is told what is found in a file."""
        return lambda what, training: self._tell(path, what, training, outcome)

    def _tell(
        self, path: str | Path, what: str, training: str, outcome: Literal["repaired", "warned"] = "warned"
    ) -> None:
        if self.findings is not None:
            (self.findings.repaired if outcome == "repaired" else self.findings.warned)(path, what, training)
        elif what not in self._told:
            self._told.add(what)
            warnings.warn(
                f"{path}: {what}; {training} (told once; 'dyvision data check' lists all files).", stacklevel=3
            )


def read_image(
    path: str | Path,
    exif_orientation: Orientation = "ignore",
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    bit_depth: int | None = None,
) -> NDArray[np.uint8]:
    """Decodes an image to RGB.

    Grey images are repeated over the channels, transparency is dropped; 16-bit, 12-bit and floating-point images are
    scaled to 8 bits (:func:`dyvision.data.pixels.to_rgb`).

    Args:
        path: The file.
        exif_orientation: As for :class:`ImageReader`.
        max_image_pixels: As for :class:`ImageReader`.
        bit_depth: As for :class:`ImageReader`.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        DataError: If the file is missing or cannot be decoded; the message names it.
    """
    return ImageReader(exif_orientation, max_image_pixels, bit_depth)(path, labelled=False)


def read_label_map(path: str | Path, max_image_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[np.int64]:
    """Decodes a single-channel image of label ids.

    Returns:
        int64 ``[H, W]``: the stored values (for a palette image its indices).

    Raises:
        DataError: If the file is missing, cannot be decoded or is a picture in colour.
    """
    try:
        ids = to_label_ids(open_image(path, max_image_pixels).as_stored(), lambda what, training: None)
        return ids.astype(np.int64)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path}: {error}.") from error


def image_size(
    path: str | Path, exif_orientation: Orientation = "ignore", max_image_pixels: int = MAX_IMAGE_PIXELS
) -> tuple[int, int]:
    """Height and width of an image from its header, without decoding it.

    Raises:
        DataError: If the file is missing or is not an image.
    """
    with _naming(path, max_image_pixels), _open(path, max_image_pixels) as image:
        upright = exif_orientation == "apply" and orientation(image) >= 5
        height, width = stored_size(image)
        return (width, height) if upright else (height, width)


def open_image(path: str | Path, max_image_pixels: int = MAX_IMAGE_PIXELS) -> Picture:
    """Opens and decodes an image of any mode.

    Raises:
        DataError: If it is missing, no file, too large or cannot be decoded.
    """
    with _naming(path, max_image_pixels):
        return decode(_open(path, max_image_pixels), path)


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, or in what its byte order mark says.

    Raises:
        DataError: If it is in another encoding; the message names it.
    """
    content = path.read_bytes()
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in {encoding} ({error.reason}); save it as UTF-8.") from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text file; they end where files' lines do, not at every character that Unicode has for it.

    Raises:
        DataError: As for :func:`read_text`.
    """
    return re.split(r"\r\n|\r|\n", read_text(path))


def _open(path: str | Path, max_image_pixels: int) -> Image.Image:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            "it is a folder" if os.path.isdir(path) else "it is no regular file"
        )  # opening a named pipe would wait for ever
    if status.st_size == 0:
        raise ValueError("the file is empty, 0 bytes")
    with _pillow_limit:  # Pillow's own limit is one for the whole process
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    if image.width * image.height > max_image_pixels:
        size = f"{image.height}x{image.width}"
        image.close()
        raise _TooLargeError(size)
    return image


class _TooLargeError(Exception):
    """An image has more pixels than allowed."""


@contextmanager
def _naming(path: str | Path, max_image_pixels: int) -> Iterator[None]:
    """Errors of Pillow as one line that names the file."""
    try:
        yield
    except DataError:  # names it already
        raise
    except FileNotFoundError:
        if (address := as_address(path)) is not None:
            raise DataError(f"{address}: an address, not a file; download the image first.") from None
        where = " (it is a link that leads nowhere)" if os.path.islink(path) else ""
        raise DataError(f"{path}: the image does not exist{where}.") from None
    except (_TooLargeError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: the image is {error} (height x width), more than max_image_pixels={max_image_pixels}; if it is "
            "right, raise data.max_image_pixels."
        ) from error
    # a damaged file ends Pillow's readers in any way: struct.error, KeyError, IndexError, TypeError, zlib.error, ...
    except Exception as error:
        reason = " ".join(str(error).replace(f" {os.fspath(path)!r}", "").split()) or type(error).__name__
        raise DataError(f"{path}: the image cannot be decoded ({reason}); replace or remove the file.") from error
