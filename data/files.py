"""Finding and decoding images: every file the readers open goes through here."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dyvision.data.errors import DataError, describe

#: Extensions that count as an image, compared without case (ImageNet writes ``.JPEG``).
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


def is_image(name: str) -> bool:
    """Whether a file name looks like an image (hidden files, such as macOS' ``._a.png``, do not)."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)


def list_images(folder: Path) -> list[str]:
    """Images below a folder at any depth, links followed.

    Returns:
        Paths relative to ``folder`` with forward slashes, sorted.
    """
    found: list[str] = []
    seen: set[str] = set()
    stack = [""]
    while stack:
        relative = stack.pop()
        real = os.path.realpath(folder / relative)
        if real in seen:  # links may form a cycle
            continue
        seen.add(real)
        with os.scandir(folder / relative) as entries:
            for entry in entries:
                path = f"{relative}/{entry.name}" if relative else entry.name
                if entry.is_dir():
                    if not entry.name.startswith("."):
                        stack.append(path)
                elif is_image(entry.name):
                    found.append(path)
    return sorted(found)


def list_folders(folder: Path) -> list[str]:
    """Names of the folders directly below a folder, sorted, hidden ones left out."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def find_images(path: Path) -> list[Path]:
    """Images to predict on: one file, or everything below a folder.

    Raises:
        DataError: If the path does not exist, or holds no image.
    """
    if path.is_file():
        return [path]
    found = [path / name for name in list_images(path)] if path.is_dir() else []
    if not found:
        raise DataError(
            f"predict_root={str(path)!r} holds no image ({describe(path)}); give an image file, or a folder with "
            f"{', '.join(IMAGE_EXTENSIONS)} files."
        )
    return found


def require_regular(path: str | Path) -> None:
    """Checks that a path is a file: opening a named pipe that nobody writes to would wait forever.

    Raises:
        FileNotFoundError: If there is nothing.
        OSError: If it is a pipe, a socket, a device or a folder.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not a regular file")


def _decode(path: str | Path) -> Image.Image:
    try:
        require_regular(path)
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise DataError(f"{path}: the image does not exist.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: the image cannot be decoded ({reason}); replace or remove the file.") from error
    return image


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decodes an image to RGB.

    Grey images are repeated over the channels, transparency is dropped and 16-bit images are scaled to 8. An
    orientation stored in EXIF is ignored, as in torchvision: labels were drawn on the stored pixels.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        DataError: If the file is missing or cannot be decoded; the message names it.
    """
    image = _decode(path)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit greys at 255 when it converts them to RGB
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        return np.array(image.convert("RGB"), dtype=np.uint8)


def read_label_map(path: str | Path) -> NDArray[np.int64]:
    """Decodes a single-channel image of label ids.

    Returns:
        int64 ``[H, W]``: the stored values (for a palette image its indices).

    Raises:
        DataError: If the file is missing, cannot be decoded or has several channels.
    """
    values: NDArray[Any] = np.asarray(_decode(path))
    if values.ndim != 2:
        raise DataError(
            f"{path}: a label image has one channel of label ids, this one has {values.shape[2]} channels; use the "
            "labelIds files, not the colour pictures."
        )
    return values.astype(np.int64)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image from its header, without decoding it.

    Raises:
        DataError: If the file is missing or is not an image.
    """
    try:
        require_regular(path)
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError:
        raise DataError(f"{path}: the image does not exist.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image cannot be decoded ({' '.join(str(error).split())}).") from error
