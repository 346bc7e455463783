"""If these fail, pictures turn black or lie on their side, a pipe stops a run, or images are lost in silence."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyvision.data import DataError
from dyvision.data.files import (
    ImageReader,
    image_size,
    list_folders,
    list_images,
    read_image,
    read_label_map,
    read_text,
)
from dyvision.data.findings import Findings


def exif(turned: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = turned
    return tags


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_orientation_is_applied_or_told(tmp_path: Path, save: Any, turned: int, suffix: str) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 255
    path = save(tmp_path / f"a.{suffix}", stored, exif=exif(turned))
    upright = ImageReader("apply")(path)
    assert np.abs(read_image(path).astype(int) - stored).max() < 40
    assert upright.shape == ((32, 16, 3) if turned >= 5 else (16, 32, 3))
    assert image_size(path, "apply") == upright.shape[:2]
    assert image_size(path) == (16, 32)
    # EXIF's table: where row 0 and column 0 of what is stored lie
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[turned]
    assert upright[corner][0] > 200
    assert (upright > 127).mean() == pytest.approx(64 / 512, abs=0.02)
    reader = ImageReader()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        reader(path)
        reader(path)
    assert [str(one.message).count(f"EXIF orientation is {turned}") for one in seen] == ([] if turned == 1 else [1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535, 32768]], np.uint16), [0, 255, 128]),
        (np.array([[0, 4095, 2048]], np.uint16), [0, 255, 128]),
        (np.array([[0, 255, 128]], np.uint16), [0, 255, 128]),
        (np.array([[0, 65535, 257]], np.int32), [0, 255, 1]),
        (np.array([[0.0, 1.0, 0.5]], np.float32), [0, 255, 128]),
        (np.array([[0.0, 255.0, 128.0]], np.float32), [0, 255, 128]),
        (np.array([[0.0, 65535.0, 32768.0]], np.float32), [0, 255, 128]),
    ],
)
def test_depths_are_scaled_to_what_is_meant(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    assert read_image(path)[0, :, 0].tolist() == expected


def test_a_depth_may_be_given_and_a_guess_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 1023]], np.uint16)).save(path)
    with pytest.warns(UserWarning, match="read as 12 bits; set bit_depth"):
        ImageReader()(path)
    assert ImageReader(bit_depth=10)(path)[0, :, 0].tolist() == [0, 255]
    assert ImageReader(bit_depth=16)(path)[0, :, 0].tolist() == [0, 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[np.nan, 1]], np.float32), "not finite"),
        (np.array([[-3, 1]], np.int32), "negative values .down to -3"),
        (np.array([[0, 70000]], np.int32), "go up to 70000"),
    ],
)
def test_values_that_are_no_picture(tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=rf"a.tif: .*{message}"):
        read_image(path)


@pytest.mark.parametrize(
    "name", ["a.gif", "a.jfif", "a.JPE", "a.jp2", "a.ppm", "a.pgm", "a.pnm", "a.tga", "a.dib", "a.ico"]
)
def test_formats_that_are_found_and_read(tmp_path: Path, name: str) -> None:
    kind = {"jp2": "JPEG2000", "jfif": "JPEG", "JPE": "JPEG", "pnm": "PPM", "pgm": "PPM"}.get(name[2:])
    Image.new("L", (16, 16), 128).save(tmp_path / name, format=kind)
    assert list_images(tmp_path) == [name]
    assert read_image(tmp_path / name).shape == (16, 16, 3)
    assert abs(int(read_image(tmp_path / name)[0, 0, 0]) - 128) < 5


def test_the_limit_of_pixels_is_an_argument(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (14000, 14000)).save(path)
    with pytest.raises(DataError, match=r"14000x14000 .*max_image_pixels=100000000; .*data.max_image_pixels"):
        read_image(path, max_image_pixels=10**8)
    before = Image.MAX_IMAGE_PIXELS
    assert image_size(path, max_image_pixels=14000**2) == (14000, 14000)
    assert before == Image.MAX_IMAGE_PIXELS


def test_what_is_no_file_does_not_hang(tmp_path: Path, save: Any) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("nowhere", tmp_path / "dead.png")
    (tmp_path / "empty.png").write_bytes(b"")
    save(tmp_path / "good.png")
    with pytest.raises(DataError, match=r"pipe.png: .*no regular file"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"dead.png: .*link that leads nowhere"):
        read_image(tmp_path / "dead.png")
    with pytest.raises(DataError, match=r"empty.png: .*0 bytes"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"dead.png: a link leads nowhere"):
        list_images(tmp_path, Findings())
    findings = Findings(collect=True)
    assert list_images(tmp_path, findings) == ["empty.png", "good.png"]
    assert [(one.outcome, one.examples) for one in findings.all] == [
        ("refused", ["dead.png"]),
        ("warned", ["pipe.png"]),
    ]


def test_system_folders_and_links_to_above(tmp_path: Path, save: Any) -> None:
    for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".ipynb_checkpoints"):
        save(tmp_path / "train" / "cat" / name / "a.png")
        save(tmp_path / "train" / name / "a.png")
    save(tmp_path / "train" / "cat" / "a.png")
    save(tmp_path / "store" / "b.png")
    os.symlink("..", tmp_path / "train" / "cat" / "up")
    os.symlink("../../..", tmp_path / "train" / "cat" / "root")
    os.symlink("../../store", tmp_path / "train" / "cat" / "beside")
    os.symlink(".", tmp_path / "train" / "itself")
    findings = Findings()
    assert list_images(tmp_path / "train" / "cat", findings) == ["a.png", "beside/b.png"]
    assert list_folders(tmp_path / "train") == ["cat"]
    with pytest.warns(UserWarning) as seen:
        findings.report()
    assert any("links to a folder above (root, up); not followed" in str(one.message) for one in seen)


def test_texts_in_other_encodings(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "a.txt").write_bytes("Kätzchen".encode(encoding))
        assert read_text(tmp_path / "a.txt") == "Kätzchen"
    (tmp_path / "a.txt").write_bytes("Kätzchen".encode("latin-1"))
    with pytest.raises(DataError, match=r"a.txt: not a text in utf-8 .*save it as UTF-8"):
        read_text(tmp_path / "a.txt")


def test_label_maps_in_other_forms(tmp_path: Path, save: Any) -> None:
    ids = np.array([[0, 7], [255, 1]], np.uint8)
    assert read_label_map(save(tmp_path / "a.png", np.repeat(ids[:, :, None], 3, axis=2))).tolist() == ids.tolist()
    rgba = np.dstack([ids, ids, ids, np.full_like(ids, 9)])
    assert read_label_map(save(tmp_path / "b.png", rgba)).tolist() == ids.tolist()
    assert read_label_map(save(tmp_path / "c.tif", ids.astype(np.float32))).tolist() == ids.tolist()
    assert read_label_map(save(tmp_path / "d.tif", ids.astype(np.int32) - 1)).tolist() == (ids.astype(int) - 1).tolist()
    with pytest.raises(DataError, match=r"e.tif: .*whole numbers"):
        read_label_map(save(tmp_path / "e.tif", np.array([[0.5]], np.float32)))
    with pytest.raises(DataError, match=r"f.png: .*3 channels; .*label_colors"):
        read_label_map(save(tmp_path / "f.png", np.array([[[1, 2, 3]]], np.uint8)))
