"""Odd annotation files, generated: each is read, trained on and evaluated, or refused in one line that names the file.

    python -m benchmarks.fuzz annotations [--examples 2000]

A traceback, a crash or a hang is a fault. hypothesis changes up to three fields of a valid file to values that
exporters (and nobody) would write, and makes a failing file as small as it can.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzz.runner import Kind
from dyvision.data import COCODataModule, DataError
from dyvision.tasks.metrics.coco import CocoEvaluator

SIZE = (24, 32)
POLYGON = [2, 3, 12, 3, 12, 15, 2, 15]


def valid_file() -> dict[str, Any]:
    """Three images with polygons, both kinds of run lengths and a crowd."""

    def annotation(number: int, image: int, segmentation: Any, crowd: int = 0) -> dict[str, Any]:
        return {
            "id": number, "image_id": image, "category_id": 1 + number % 2, "bbox": [2, 3, 10, 12], "area": 120,
            "iscrowd": crowd, "segmentation": segmentation,
        }  # fmt: skip

    return {
        "info": {},
        "images": [{"id": k, "file_name": f"{k}.png", "height": SIZE[0], "width": SIZE[1]} for k in (1, 2, 3)],
        "annotations": [
            annotation(1, 1, [POLYGON]),
            annotation(2, 1, {"size": list(SIZE), "counts": [0, 240, 528]}, crowd=1),
            annotation(3, 2, {"size": list(SIZE), "counts": "c1<<00000000000000000m>"}),
            annotation(4, 2, [POLYGON, POLYGON]),
            annotation(5, 3, [POLYGON]),
        ],
        "categories": [{"id": 1, "name": "a", "supercategory": "c"}, {"id": 2, "name": "b", "supercategory": "c"}],
    }


_NUMBERS = st.one_of(
    st.integers(-3, 40), st.floats(), st.sampled_from([1e9, -1e9, 1e300, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-300])
)
_TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "0", "1", " 5 ", "1e3", "-1", "1.0", "nan", "inf", "true", "false", "0x10", "1_0", "\u0663", "1.png",
         "./1.png", "a\\..\\1.png", "..", "/etc/passwd", "1.PNG", "%31.png", "\0", "[4, 5]", "T3:Zo2", "oooooooooooo",
         "PPPPPPPP", "none", "c", "=1", "\ud800"]
    ),
    st.text(max_size=6),
)  # fmt: skip
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS)
_CORNERS = st.lists(_NUMBERS, max_size=12)
_RUNS = st.builds(
    lambda counts, size: {"counts": counts, **({} if size is None else {"size": size})},
    st.one_of(st.lists(st.one_of(st.integers(-2, 800), _SCALARS), max_size=6), _SCALARS),
    st.one_of(st.none(), st.just(list(SIZE)), st.lists(_NUMBERS, max_size=3), _SCALARS),
)
_SEGMENTATIONS = st.one_of(
    _CORNERS, st.lists(_CORNERS, max_size=3), st.lists(st.lists(st.lists(_NUMBERS, min_size=2, max_size=2))), _RUNS,
    st.lists(_RUNS, max_size=3), st.just([POLYGON, []]), st.just([[[POLYGON]]]), st.lists(st.one_of(_CORNERS, _RUNS)),
    st.builds(lambda x, y: {"all_points_x": x, "all_points_y": y}, _CORNERS, _CORNERS),
    st.builds(lambda x, y: [{"x": x, "y": y}] * 4, _SCALARS, _SCALARS),
)  # fmt: skip
_ANYTHING = st.recursive(
    st.one_of(_SCALARS, _SEGMENTATIONS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=8,
)
_BOXES = st.one_of(
    st.lists(_NUMBERS, min_size=4, max_size=4), st.lists(_SCALARS, max_size=5),
    st.fixed_dictionaries({key: _SCALARS for key in ("x", "y", "width", "height")}),
)  # fmt: skip
_VALUES = {"segmentation": _SEGMENTATIONS, "bbox": _BOXES, "file_name": _TEXTS}
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "segmentation"),
    "categories": ("id", "name", "supercategory"),
}


@st.composite
def annotation_files(draw: st.DrawFn) -> dict[str, Any]:
    """A valid file with one to three changes."""
    content = valid_file()
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 2, 3]))):
        part = draw(st.sampled_from(["annotations"] * 5 + ["images"] * 2 + ["categories"]))
        records = content.get(part)
        if not isinstance(records, list) or not records:
            continue
        kind = draw(st.sampled_from(["field"] * 8 + ["all", "remove", "double", "record", "part"]))
        index = draw(st.integers(0, len(records) - 1))
        if kind == "part":
            content[part] = copy.deepcopy(draw(_ANYTHING))
        elif kind == "record":
            records[index] = copy.deepcopy(draw(_ANYTHING))
        elif kind == "double":
            records.append(copy.deepcopy(records[index]))
        else:
            name = draw(st.sampled_from(_FIELDS[part]))
            value = draw(st.one_of(_VALUES.get(name, _SCALARS), _VALUES.get(name, _SCALARS), _ANYTHING))
            for record in records if kind == "all" else [records[index]]:
                if isinstance(record, dict) and kind == "remove":
                    record.pop(name, None)
                elif isinstance(record, dict):
                    record[name] = copy.deepcopy(value)
    return content


def check(example: tuple[dict[str, Any], bool], root: Path) -> str:
    """Reads, trains on and evaluates one annotation file, with or without masks.

    Returns:
        ``"accepted"`` or ``"refused"``.

    Raises:
        AssertionError: If what is trained on is not what is evaluated, or the refusal is no line about this file.
    """
    content, masks = example
    for name in ("1.png", "2.png", "3.png"):
        if not (root / "train2017" / name).is_file():
            (root / "train2017").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "train2017" / name)
    path = root / "annotations" / "instances_train2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _use(COCODataModule(root, num_workers=0, masks=masks, val_split="train2017", train_transform=[]))
    except DataError as error:
        message = str(error)
        # a picture of another size than stated is found when it is read, a file of no samples by its split
        assert str(root) in message and "\n" not in message and len(message) < 1500, message
        return "refused"
    return "accepted"


def _use(data: COCODataModule) -> None:
    train, val = (data.build_dataset("train2017", train=flag) for flag in (True, False))
    metric = CocoEvaluator(data.class_ids, data.class_names, masks=data.masks)
    trained = sum(len(train[k]["target"]["boxes"]) for k in range(len(train)))
    evaluated = 0
    for index in range(len(val)):
        target = val[index]["target"]
        boxes = target["boxes"]
        assert bool(boxes.isfinite().all()) and bool((boxes[:, 2:] > boxes[:, :2]).all())
        evaluated += len(boxes)
        found = {
            "boxes": boxes, "scores": torch.ones(len(boxes)),
            "category_ids": torch.tensor([data.class_ids[k - 1] for k in target["labels"].tolist()], dtype=torch.int64),
        }  # fmt: skip
        if data.masks:
            assert target["masks"].unique().tolist() in ([], [0], [1], [0, 1])  # no uninitialised memory
            found["masks"] = target["masks"].bool()
        metric.update([found], [target])
    assert trained == evaluated
    assert all(-1 <= float(value) <= 1 for value in metric.compute().values())


ANNOTATIONS = Kind(st.tuples(annotation_files(), st.booleans()), check, seconds=20)
