"""If these fail, an odd segmentation ends a run in evaluation, or hands pycocotools what crashes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api

from dyvision.data import COCODataModule, DataError
from dyvision.data.coco_masks import run_lengths
from dyvision.tasks.metrics.coco import CocoEvaluator

Write = Callable[..., Path]
EXPECTED = np.zeros((24, 32), np.uint8)
EXPECTED[3:15, 2:12] = 1
BOX = [2, 3, 12, 3, 12, 15, 2, 15]
PAIRS = [[2, 3], [12, 3], [12, 15], [2, 15]]


def counts(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], mask.ravel(order="F"), [0]])
    runs = np.diff([0, *np.flatnonzero(np.diff(flat)), mask.size])
    return [int(run) for run in runs]


def code(mask: np.ndarray) -> dict[str, Any]:
    coded = mask_api.encode(np.asfortranarray(mask))
    return {"size": [24, 32], "counts": coded["counts"].decode()}


LEFT, RIGHT = EXPECTED.copy(), EXPECTED.copy()
LEFT[:, 7:], RIGHT[:, :7] = 0, 0


def evaluate(root: Path) -> tuple[dict[str, float], Any]:
    data = COCODataModule(root, num_workers=0, masks=True)
    dataset = data.build_dataset("val2017", train=False)
    metric = CocoEvaluator(data.class_ids, data.class_names, masks=True)
    for index in range(len(dataset)):
        target = dataset[index]["target"]
        ids = torch.tensor([data.class_ids[k - 1] for k in target["labels"].tolist()], dtype=torch.int64)
        found = {"boxes": target["boxes"], "scores": torch.ones(len(ids)), "category_ids": ids}
        metric.update([{**found, "masks": target["masks"].bool()}], [target])
    return {name: float(value) for name, value in metric.compute().items()}, dataset


@pytest.mark.parametrize(
    "segmentation",
    [
        [BOX],
        BOX,
        PAIRS,
        [PAIRS],
        [[BOX]],
        [[[PAIRS]]],
        [{"x": x, "y": y} for x, y in PAIRS],
        [[{"x": x, "y": y} for x, y in PAIRS]],
        {"all_points_x": BOX[::2], "all_points_y": BOX[1::2]},
        {"x": BOX[::2], "y": BOX[1::2]},
        [[str(value) for value in BOX]],
        [BOX, []],
        [BOX, [4, 5]],
        [BOX, [4, 5, 6, 7]],
        {"counts": counts(EXPECTED)},
        {"counts": counts(EXPECTED), "size": None},
        {"counts": [str(run) for run in counts(EXPECTED)], "size": [24, 32]},
        {"counts": [float(run) for run in counts(EXPECTED)], "size": [24, 32]},
        {"counts": code(EXPECTED)["counts"]},
        [code(EXPECTED)],
        [code(LEFT), code(RIGHT)],
        [code(LEFT), {"counts": counts(RIGHT), "size": [24, 32]}],
    ],
)
@pytest.mark.filterwarnings("ignore:.*instances_:UserWarning")
def test_what_is_meant_is_read_the_same_in_training_and_evaluation(
    write_coco: Write, coco_json: dict[str, Any], segmentation: Any
) -> None:
    coco_json["annotations"][0]["segmentation"] = segmentation
    values, dataset = evaluate(write_coco(coco_json))
    assert np.array_equal(dataset[0]["target"]["masks"][0].numpy(), EXPECTED)
    assert values["box_AP"] == values["mask_AP"] == 1.0


@pytest.mark.parametrize(
    "segmentation",
    [[], [[]], [[], []], None, "x", "", True, 7, {}, {"a": 1}, [[4, 5]], [[4, 5, 24, 21]], [4, 5], PAIRS[:2]],
)  # fmt: skip
def test_no_mask_leaves_mask_ap_out_and_stays_in_box_ap(
    write_coco: Write, coco_json: dict[str, Any], segmentation: Any
) -> None:
    coco_json["annotations"][0]["segmentation"] = segmentation
    root = write_coco(coco_json)
    with pytest.warns(UserWarning, match="1 of 3 objects have no mask and are left out"):
        values, dataset = evaluate(root)
    assert values["mask_AP"] == 1.0
    assert 0 < values["box_AP"] < 1  # the object is there and was not detected
    train = COCODataModule(root, num_workers=0, masks=True)
    with pytest.warns(UserWarning, match="no mask"):
        boxes = train.build_dataset("train2017", train=True)[0]["target"]["boxes"]
    assert len(boxes) == len(dataset[0]["target"]["boxes"]) == 1


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, float("nan"), 4, 5, 6]],
        [[1, 2, float("inf"), 4, 5, 6]],
        [[1, 2, None, 4, 5, 6]],
        [[1, 2, "a", 4, 5, 6]],
        [[1, 2, 10**400, 4, 5, 6]],
        [BOX, "x"],
        [BOX, {"counts": [768], "size": [24, 32]}],
        {"counts": [100, 10, 10], "size": [24, 32]},
        {"counts": [100, 10, 10**6], "size": [24, 32]},
        {"counts": [100, 10, 10**30], "size": [24, 32]},
        {"counts": [800, -32], "size": [24, 32]},
        {"counts": [], "size": [24, 32]},
        {"counts": [767.5, 0.5], "size": [24, 32]},
        {"counts": [768], "size": [32, 24]},
        {"counts": [768], "size": [24, 32, 1]},
        {"counts": [768], "size": "24x32"},
        {"counts": None, "size": [24, 32]},
        {"counts": "not a code", "size": [24, 32]},
        {"counts": code(EXPECTED)["counts"][:-3], "size": [24, 32]},
        {"counts": code(EXPECTED)["counts"] + "o", "size": [24, 32]},
        {"counts": "ooooooooooooooooo0", "size": [24, 32]},
        {"counts": "\u00e9\u00e9", "size": [24, 32]},
        [{"counts": [768], "size": [24, 32]}, {"counts": [700], "size": [24, 32]}],
    ],
)
def test_what_would_break_pycocotools_is_refused_when_the_file_is_opened(
    write_coco: Write, coco_json: dict[str, Any], segmentation: Any
) -> None:
    coco_json["annotations"][0]["segmentation"] = segmentation
    root = write_coco(coco_json)
    with pytest.raises(DataError, match=r"instances_val2017.json: .*annotation 1\b") as error:
        COCODataModule(root, num_workers=0, masks=True).setup("validate")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    COCODataModule(root, num_workers=0).setup("validate")  # boxes do not need it


def test_coordinates_far_away_are_moved_nearer(write_coco: Write, coco_json: dict[str, Any]) -> None:
    coco_json["annotations"][0]["segmentation"] = [[-1e9, -1e300, 1e9, -1e9, 1e9, 1e300, -1e9, 1e9]]
    with pytest.warns(UserWarning, match="a polygon reaches far outside its image"):
        _, dataset = evaluate(write_coco(coco_json))
    sample = dataset[0]["target"]
    assert sample["masks"][0].all()
    assert np.abs(sample["annotations"][0]["segmentation"]).max() < 1000


def test_an_endless_outline_is_refused(write_coco: Write, coco_json: dict[str, Any]) -> None:
    coco_json["annotations"][0]["segmentation"] = [[0, 0, 31, 23] * 400_000]
    with pytest.raises(DataError, match="the outline of a polygon is longer"):
        COCODataModule(write_coco(coco_json), num_workers=0, masks=True).setup("fit")


def test_run_length_codes_are_decoded_as_pycocotools_does() -> None:
    rng = np.random.default_rng(0)
    for size in ((1, 1), (3, 5), (24, 32), (200, 311)):
        for density in (0.0, 0.02, 0.5, 1.0):
            mask = (rng.random(size) < density).astype(np.uint8)
            text = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
            decoded = run_lengths(text)
            assert decoded is not None and decoded.tolist() == [
                run for k, run in enumerate(counts(mask)) if k == 0 or run
            ]


def test_packing_keeps_every_kind_apart(write_coco: Write, coco_json: dict[str, Any]) -> None:
    kinds: list[Any] = [
        [BOX],
        {"counts": counts(LEFT), "size": [24, 32]},
        code(RIGHT),
        [],
        [BOX, BOX],
        code(EXPECTED),
        [BOX],
    ]
    coco_json["annotations"] = [
        {**coco_json["annotations"][0], "id": number, "image_id": 10 + 10 * (number % 3), "segmentation": kind}
        for number, kind in enumerate(kinds)
    ]
    data = COCODataModule(write_coco(coco_json), num_workers=0, masks=True)
    with pytest.warns(UserWarning, match="1 of 7 objects"):
        dataset = data.build_dataset("val2017", train=False)
    found = {a["id"]: a.get("segmentation", []) for k in range(3) for a in dataset[k]["target"]["annotations"]}
    assert [found[number] for number in range(len(kinds))] == kinds
