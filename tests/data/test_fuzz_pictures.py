"""Damaged pictures of every format: whatever Pillow raises, a reader says which file cannot be used."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from dyvision.data import ImageFolderDataModule
from dyvision.data.errors import DataError
from dyvision.data.files import ImageReader, image_size, open_image, read_label_map

FORMATS = ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "TGA", "ICO", "JPEG2000"]
MODES = ["RGB", "P", "L", "1"]
ROUNDS = 60


def encoded(kind: str, mode: str) -> bytes:
    values = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).convert(mode).save(out, kind)
    return out.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes of the file, mostly of its head, are others; or its end is missing; or a part is twice there."""
    spoilt = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(spoilt[: rng.integers(1, len(spoilt))])
    if kind == 1:
        start = int(rng.integers(len(spoilt)))
        return bytes(spoilt[:start] + spoilt[int(rng.integers(len(spoilt))) :] + spoilt[start:])
    end = len(spoilt) if kind == 2 else min(len(spoilt), 120)
    for position in rng.integers(0, end, int(rng.integers(1, 8))):
        spoilt[position] = rng.integers(256)
    return bytes(spoilt)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_picture_is_a_data_error(kind, tmp_path) -> None:
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    rng = np.random.default_rng(7)
    path = tmp_path / "broken"
    for mode in MODES:
        try:
            good = encoded(kind, mode)
        except (OSError, KeyError):  # a format without this mode
            continue
        for _ in range(ROUNDS):
            path.write_bytes(damaged(good, rng))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for read in (ImageReader("apply", 10**6), read_label_map, image_size):
                    try:
                        read(path)
                    except DataError as error:
                        assert str(path) in str(error)
                        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        *(struct.error("a"), KeyError("a"), IndexError("a"), SyntaxError("a"), TypeError("a"), zlib.error("a")),
        *(EOFError(), AttributeError("a"), ZeroDivisionError("a"), OverflowError("a"), RuntimeError("a")),
        *(Image.DecompressionBombError("a"), AssertionError(), NotImplementedError(), MemoryError(), RecursionError()),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("method", ["load", "convert"])
def test_whatever_pillow_raises_is_a_data_error(error, method, tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(Image.Image, method, fail)
    if method == "load":
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(DataError, match=r"a\.png"):
            open_image(path)
    with pytest.raises(DataError, match=r"a\.png"):
        ImageReader()(path)


def test_predictions_keep_the_good_pictures_of_a_folder(tmp_path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / split / "cat" / "0.png")
    odd = Path(tmp_path / "odd")
    odd.mkdir()
    Image.new("RGB", (32, 32)).save(odd / "good.png")
    tiff = bytearray(encoded("TIFF", "RGB"))
    tiff[4:8] = b"\xff\xff\xff\x00"
    (odd / "broken.tif").write_bytes(bytes(tiff))
    (odd / "broken.gif").write_bytes(encoded("GIF", "P")[:20])
    module = ImageFolderDataModule(str(tmp_path), predict_root=str(odd), image_size=32, batch_size=4, num_workers=0)
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    outcome = {Path(path).name: reason for path, reason in zip(batch["path"], batch["failed"], strict=True)}
    assert outcome["good.png"] is None
    assert "broken.tif" in outcome["broken.tif"]
    assert "broken.gif" in outcome["broken.gif"]
