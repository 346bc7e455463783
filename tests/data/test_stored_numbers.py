"""Numbers that Pillow changes to show a picture: bits beyond 8, greys of few bits, white as 0, turned TIFFs."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dyvision.data.cityscapes_labels import LabelTable
from dyvision.data.errors import DataError
from dyvision.data.files import ImageReader, image_size, read_image, read_label_map

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def write_png(path: Path, values: np.ndarray, kind: int, bits: int) -> None:
    """``[H, W]`` or ``[H, W, C]`` with any depth; Pillow writes few of them."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1)
    if bits == 16:
        content = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    else:
        texts = ["".join(format(int(value), f"0{bits}b") for value in row) for row in rows]
        texts = [text + "0" * (-len(text) % 8) for text in texts]
        content = b"".join(b"\0" + int(text, 2).to_bytes(len(text) // 8, "big") for text in texts)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    )


def write_tiff(path: Path, values: np.ndarray, white_is_zero: bool = False) -> None:
    """A grey TIFF with the given numbers in it, whatever they are shown as."""
    height, width = values.shape
    bits = values.dtype.itemsize * 8
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, int(not white_is_zero)),
            (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, height), (279, values.nbytes)]  # fmt: skip
    content = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + content + struct.pack("<I", 0) + values.tobytes())


def deep(values: list[int], kind: int) -> np.ndarray:
    grey = np.array([values])
    opaque = np.full_like(grey, 65535)
    return np.stack({RGB: [grey] * 3, RGBA: [grey] * 3 + [opaque], GREY_ALPHA: [grey, opaque]}[kind], axis=2)


@pytest.mark.parametrize("kind", [RGB, RGBA, GREY_ALPHA])
def test_ids_of_16_bits_in_several_channels(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.png"
    write_png(path, deep([0, 1, 7, 300, 40000], kind), kind, 16)
    assert read_label_map(path).tolist() == [[0, 1, 7, 300, 40000]]
    table = LabelTable(label_table={0: "a", 1: "b", 7: "c", 300: "d", 40000: "e"})
    with pytest.warns(UserWarning, match="several channels"):
        assert table.read(str(path), ImageReader()).tolist() == [[0, 1, 2, 3, 4]]


def test_ids_of_16_bits_in_a_colour_tiff_and_ppm(tmp_path: Path) -> None:
    values = deep([0, 1, 300], RGB).astype(np.uint16)
    for name in ("a.tif", "a.ppm"):
        cv2.imwrite(str(tmp_path / name), values)
        assert read_label_map(tmp_path / name).tolist() == [[0, 1, 300]]
    values[0, 1, 0] = 2
    cv2.imwrite(str(tmp_path / "colour.png"), values)
    with pytest.raises(DataError, match=r"colour\.png.*3 channels"):
        read_label_map(tmp_path / "colour.png")


def test_ids_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    planes = deep([0, 1, 300], RGB).astype(">u2")
    header = struct.pack(">HBBHHHHII", 474, 0, 2, 3, 3, 1, 3, 0, 65535).ljust(512, b"\0")
    (tmp_path / "a.sgi").write_bytes(header + planes.transpose(2, 0, 1).tobytes())
    with pytest.raises(DataError, match=r"a\.sgi.*16 bits"):
        read_label_map(tmp_path / "a.sgi")
    with pytest.warns(UserWarning, match="16 bits"):
        assert ImageReader()(tmp_path / "a.sgi").shape == (1, 3, 3)


@pytest.mark.parametrize("kind", [RGB, RGBA, GREY_ALPHA])
def test_pictures_of_12_bits_in_16(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.png"
    write_png(path, deep([0, 1000, 4095], kind), kind, 16)
    assert read_image(path, bit_depth=12)[0].tolist() == [[0] * 3, [62] * 3, [255] * 3]
    assert read_image(path, bit_depth=16)[0, :, 0].tolist() == [0, 4, 16]
    with pytest.warns(UserWarning, match="read as 12 bits"):
        assert read_image(path)[0, :, 0].tolist() == [0, 62, 255]


@pytest.mark.parametrize("name", ["a.tif", "a.ppm"])
def test_pictures_of_12_bits_in_other_formats(tmp_path: Path, name: str) -> None:
    cv2.imwrite(str(tmp_path / name), deep([0, 1000, 4095], RGB).astype(np.uint16))
    with pytest.warns(UserWarning, match="read as 12 bits"):
        assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 62, 255]
    assert read_image(tmp_path / name, bit_depth=12)[0, :, 2].tolist() == [0, 62, 255]


def test_channels_stay_in_order_and_16_bits_are_rounded(tmp_path: Path) -> None:
    values = np.array([[[65535, 32896, 0], [257, 386, 65535]]])
    write_png(tmp_path / "a.png", values, RGB, 16)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 128, 0], [1, 2, 255]]]


@pytest.mark.parametrize("largest", [1, 3, 20, 254, 255, 300, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_ids_in_netpbm_files(tmp_path: Path, largest: int, plain: bool) -> None:
    values = np.array(sorted({0, 1, largest // 3, largest // 2, largest}))
    path = tmp_path / "a.pgm"
    if plain:
        path.write_text(f"P2\n{len(values)} 1\n{largest}\n{' '.join(map(str, values))}\n")
    else:
        raw = values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
        path.write_bytes(b"P5\n# a comment\n%d 1\n%d\n" % (len(values), largest) + raw)
    assert read_label_map(path).tolist() == [values.tolist()]
    table = LabelTable(label_table={int(value): str(value) for value in values[:-1]} | {int(values[-1]): "last"})
    assert table.read(str(path), ImageReader()).tolist() == [list(range(len(values)))]


def test_grey_netpbm_pictures_are_shown_by_their_largest_value(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5\n3 1\n4095\n" + np.array([0, 1000, 4095], ">u2").tobytes())
    assert read_image(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 62, 255]
    assert read_image(tmp_path / "a.pgm", bit_depth=12)[0, :, 0].tolist() == [0, 62, 255]
    (tmp_path / "b.pgm").write_bytes(b"P5\n3 1\n20\n" + bytes([0, 10, 20]))
    assert read_image(tmp_path / "b.pgm")[0, :, 0].tolist() == [0, 128, 255]


def test_bitmaps_of_netpbm(tmp_path: Path) -> None:
    (tmp_path / "a.pbm").write_text("P1\n3 1\n1 0 1\n")  # where 1 is black
    assert read_label_map(tmp_path / "a.pbm").tolist() == [[0, 1, 0]]
    (tmp_path / "a.pfm").write_bytes(b"Pf\n2 1\n-1.0\n" + np.array([0, 1], "<f4").tobytes())
    assert read_image(tmp_path / "a.pfm")[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("bits", [2, 4])
def test_ids_of_few_bits_are_the_stored_numbers(tmp_path: Path, bits: int) -> None:
    values = np.arange(2**bits)[None]
    write_png(tmp_path / "a.png", values, GREY, bits)
    assert read_label_map(tmp_path / "a.png").tolist() == values.tolist()
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == (values[0] * (255 // (2**bits - 1))).tolist()


def test_a_mask_that_was_made_smaller_keeps_its_greys(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.array([[0, 3, 0]]), GREY, 2)
    table = LabelTable(label_table={0: "background", 255: "crack"})
    with pytest.warns(UserWarning, match="2 bits"):
        assert table.read(str(tmp_path / "a.png"), ImageReader()).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiffs_in_which_0_is_white(tmp_path: Path, kind: Any) -> None:
    most = np.iinfo(kind).max
    write_tiff(tmp_path / "a.tif", np.array([[0, 1, 7, most]], dtype=kind), white_is_zero=True)
    assert read_label_map(tmp_path / "a.tif").tolist() == [[0, 1, 7, most]]
    assert read_image(tmp_path / "a.tif")[0, [0, 3], 0].tolist() == [255, 0]
    write_tiff(tmp_path / "b.tif", np.array([[0, 1, 7, most]], dtype=kind))
    assert read_label_map(tmp_path / "b.tif").tolist() == [[0, 1, 7, most]]


def test_colours_of_16_bits(tmp_path: Path) -> None:
    table = LabelTable(label_colors={"road": [0, 0, 0], "car": [10, 0, 142]})
    colors = np.array([[[0, 0, 0], [10, 0, 142]]])
    for factor in (1, 257):
        write_png(tmp_path / "a.png", colors * factor, RGB, 16)
        assert table.read(str(tmp_path / "a.png"), ImageReader()).tolist() == [[0, 1]]
    write_png(tmp_path / "a.png", colors * 256, RGB, 16)
    with pytest.raises(DataError, match=r"a\.png.*16 bits"):
        table.read(str(tmp_path / "a.png"), ImageReader())


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_tiffs_with_an_orientation(tmp_path: Path, turned: int, deep: bool) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (5, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turned
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    if deep:
        _write_deep_tiff(path, pixels, turned)
    else:
        Image.fromarray(pixels).save(path, exif=exif)
    for option in ("ignore", "apply"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = ImageReader(option)(path)  # type: ignore[arg-type]
            expected = ImageReader(option)(tmp_path / "a.png")  # type: ignore[arg-type]
        np.testing.assert_array_equal(read, expected)
        assert image_size(path, option) == read.shape[:2]  # type: ignore[arg-type]
    if turned != 1:
        with pytest.warns(UserWarning, match=f"EXIF orientation is {turned}"):
            ImageReader()(path)


def _write_deep_tiff(path: Path, pixels: np.ndarray, turned: int) -> None:
    height, width = pixels.shape[:2]
    values = (pixels.astype("<u2") * 257).tobytes()
    at = 8 + 2 + 10 * 12 + 4
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, at + 6), (274, 3, 1, turned), (277, 3, 1, 3), (278, 4, 1, height),
            (279, 4, 1, len(values))]  # fmt: skip
    content = b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + content + struct.pack("<3H", 16, 16, 16) + values)


def test_label_maps_turn_with_their_images(tmp_path: Path) -> None:
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    table = LabelTable(label_table={k: str(k) for k in range(6)})
    for name in ("a.png", "a.tif"):
        Image.fromarray(ids).save(tmp_path / name, exif=exif)
        assert read_label_map(tmp_path / name).tolist() == ids.tolist()
        assert table.read(str(tmp_path / name), ImageReader(), (2, 3)).tolist() == ids.tolist()
        turned = table.read(str(tmp_path / name), ImageReader("apply"), (3, 2))
        assert turned.tolist() == np.rot90(ids, -1).tolist()
