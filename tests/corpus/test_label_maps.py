"""Label maps of segmentation that are none, or not of this table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _write(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(path)


def _spoil(kind: str, path: Path) -> None:
    ramp = np.arange(32 * 48).reshape(32, 48)
    if kind == "RGB":
        _write(path, np.dstack([ramp % 256, (ramp * 7) % 256, (ramp * 3) % 256]).astype(np.uint8))
    elif kind == "RGBA":
        _write(path, np.dstack([ramp % 256] * 2 + [(ramp * 3) % 256, ramp % 256]).astype(np.uint8))
    elif kind == "float":
        Image.fromarray(np.full((32, 48), 7.5, np.float32)).save(path.with_suffix(".tiff"))
        path.unlink()
    elif kind == "NaN":
        Image.fromarray(np.full((32, 48), np.nan, np.float32)).save(path.with_suffix(".tiff"))
        path.unlink()
    elif kind == "other size":
        _write(path, np.full((30, 48), 7, np.uint8))
    elif kind == "unknown id":
        _write(path, np.full((32, 48), 99, np.uint8))
    elif kind == "16 bits":
        _write(path, np.full((32, 48), 40_000, np.uint16))
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "half a file":
        path.write_bytes(path.read_bytes()[:60])
    elif kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()


KINDS = {
    "RGB": ("channel",),
    "RGBA": ("channel",),
    "float": ("float|whole|integer",),
    "NaN": ("float|whole|integer|finite",),
    "other size": ("30",),
    "unknown id": ("99",),
    "16 bits": ("40000|40_000|40,000",),
    "empty file": ("decoded|empty",),
    "text": ("decoded",),
    "half a file": ("decoded",),
    "missing": ("label map|label_dir",),
    "folder": ("label map|label_dir|folder",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_is_refused(kind, own, refused_in_fit) -> None:
    root = own("segmentation")
    for path in sorted((root / "gtFine" / "train" / "town").iterdir()):
        _spoil(kind, path)
    line = refused_in_fit("segmentation", [], "label", root=root)
    assert all(any(part in line for part in word.split("|")) for word in KINDS[kind]), line


def test_every_pixel_ignored(own, refused_in_fit) -> None:
    root = own("segmentation")
    for path in (root / "gtFine" / "train" / "town").iterdir():
        _write(path, np.zeros((32, 48), np.uint8))
    refused_in_fit("segmentation", [], "ignored", root=root)


@pytest.mark.parametrize("missing", ["leftImg8bit", "gtFine", "leftImg8bit/train", "gtFine/train", "leftImg8bit/val"])
def test_missing_folders(missing, own, refused_in_fit) -> None:
    import shutil

    root = own("segmentation")
    shutil.rmtree(root / missing)
    refused_in_fit(
        "segmentation", [], "expected|needs".split("|")[0] if "leftImg8bit" in missing else "label", root=root
    )
