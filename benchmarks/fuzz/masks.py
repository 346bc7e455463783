"""Odd label maps, generated: each is read, or refused in one line that names the file.

    python -m benchmarks.fuzz masks [--examples 2000]

A traceback of another kind, a crash or a hang is a fault, and so is a class index that is none, or a pixel whose class
is not the one that the table says. hypothesis varies values, type, mode, format, size and damage, and the table.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzz.runner import Kind
from dyvision.data import CityscapesDataModule, DataError

SIZE = (6, 9)
_ODD = st.sampled_from([2, 40, 254, 256, 300, 65535, 65536, -1, -2, 2**31 - 1, -(2**31)])
_IDS = st.one_of(
    st.lists(st.sampled_from([0, 1, 7, 255]), min_size=1, max_size=4),
    st.lists(st.sampled_from([0, 255]), min_size=1, max_size=2),
    st.lists(st.one_of(_ODD, st.integers(0, 40)), min_size=1, max_size=4),
)
_TYPES = st.sampled_from(["uint8", "uint16", "int32", "float32", "bool"])
_FORMS = st.sampled_from(["grey", "rgb", "rgba", "palette", "la", "one channel differs", "cmyk"])
_SUFFIXES = st.sampled_from(["png", "tif", "bmp", "gif", "jpg", "webp", "ppm"])
_TABLES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {},
        {"label_table": {0: "a", 255: "b"}},
        {"label_table": {0: "a", 1: "b", 300: "c"}},
        {"label_table": {7: "a"}, "ignore_ids": [0, 1, 2]},
        {"label_colors": "voc"},
        {"label_colors": {"a": [0, 0, 0], "b": [7, 7, 7]}},
        {"label_suffix": "_labelTrainIds"},
        {"exif_orientation": "apply"},
    ]
)


@st.composite
def label_files(draw: st.DrawFn) -> dict[str, Any]:
    """What to write: values, form of the file, damage."""
    return {
        "ids": draw(_IDS),
        "type": draw(_TYPES),
        "form": draw(_FORMS),
        "suffix": draw(_SUFFIXES),
        "size": draw(st.sampled_from([SIZE] * 5 + [SIZE[::-1], (1, 1)])),
        "orientation": draw(st.sampled_from([0, 0, 1, 3, 6, 9])),
        "damage": draw(st.sampled_from(["none"] * 6 + ["cut", "bytes", "empty", "text"])),
        "seed": draw(st.integers(0, 99)),
        "table": draw(_TABLES),
    }


def _write(what: dict[str, Any], path: Path) -> None:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = np.resize(np.array(what["ids"]), what["size"]).astype(what["type"])
        image = Image.fromarray(values)
        small = Image.fromarray(values.astype(np.uint8))
        image = {
            "grey": image, "rgb": small.convert("RGB"), "rgba": small.convert("RGBA"), "la": small.convert("LA"),
            "palette": small.convert("P"), "cmyk": small.convert("CMYK"),
            "one channel differs": Image.merge("RGB", (small, small, small.point(lambda value: value ^ 1))),
        }[what["form"]]  # fmt: skip
        exif = Image.Exif()
        if what["orientation"]:
            exif[0x0112] = what["orientation"]
        try:
            image.save(
                path, **({"exif": exif} if what["orientation"] and what["suffix"] in ("png", "jpg", "tif") else {})
            )
        except (OSError, ValueError, KeyError):  # the format has no such mode
            path = path.with_suffix(".png")
            small.save(path)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(what["seed"])
    if what["damage"] == "cut":
        content = content[: len(content) // 2]
    elif what["damage"] == "bytes":
        for position in rng.integers(0, len(content), 5):
            content[position] = int(rng.integers(0, 256))
    elif what["damage"] in ("empty", "text"):
        content = bytearray(b"" if what["damage"] == "empty" else b"no picture")
    path.write_bytes(bytes(content))


def check(what: dict[str, Any], root: Path) -> str:
    """Reads a label map as training and evaluation do.

    Returns:
        ``"accepted"`` or ``"refused"``.

    Raises:
        AssertionError: If a value is no class, or the refusal is no line about this file.
    """
    options = {"label_suffix": "_ids", **what["table"]}
    folder = root / "gtFine" / "val"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    image = root / "leftImg8bit" / "val" / "a_leftImg8bit.png"
    if not image.is_file():
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(image)
    _write(what, folder / f"a{options['label_suffix']}.{what['suffix']}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = CityscapesDataModule(root, num_workers=0, crop_size=SIZE, **options)
            dataset = data.build_dataset("val", train=False)
            mask = dataset[0]["mask"].numpy()
            data.check_labels(dataset)
    except DataError as error:
        message = str(error)
        assert str(root) in message and "\n" not in message and len(message) < 1500, message
        return "refused"
    assert mask.shape == SIZE
    assert set(np.unique(mask).tolist()) <= {*range(len(data.class_names)), 255}
    plain = what["form"] == "grey" and what["suffix"] in ("png", "tif") and what["damage"] == "none"
    if plain and what["type"] in ("uint8", "uint16") and "label_table" in options and what["orientation"] < 2:
        stored = np.resize(np.array(what["ids"]), SIZE).astype(what["type"])
        table = options["label_table"]
        names = [table.get(value) for value in stored.reshape(-1).tolist()]
        found = [None if k == 255 else data.class_names[k] for k in mask.reshape(-1).tolist()]
        assert names == found
    return "accepted"


MASKS = Kind(label_files(), check, seconds=20)
