"""If these fail, a field that an exporter writes oddly makes objects vanish, or ends a run after its first epoch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyvision.data import COCODataModule, DataError
from dyvision.data.coco_json import read_coco
from dyvision.data.findings import Findings
from dyvision.tasks.metrics.coco import CocoEvaluator

Write = Callable[..., Path]


def objects(root: Path, masks: bool = False) -> tuple[int, float]:
    """Boxes to train on, and AP of the ground truth as detections."""
    data = COCODataModule(root, num_workers=0, train_transform=[], masks=masks)
    train, val = data.build_dataset("train2017", train=True), data.build_dataset("val2017", train=False)
    metric = CocoEvaluator(data.class_ids, data.class_names, masks=masks)
    for index in range(len(val)):
        target = val[index]["target"]
        found = {"boxes": target["boxes"], "scores": torch.ones(len(target["boxes"]))}
        found["category_ids"] = torch.tensor([data.class_ids[k - 1] for k in target["labels"].tolist()])
        if masks:
            found["masks"] = target["masks"].bool()
        metric.update([found], [target])
    boxes = sum(len(train[k]["target"]["boxes"]) for k in range(len(train)))
    return boxes, float(metric.compute()["mask_AP" if masks else "box_AP"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"iscrowd": "0"}, "'iscrowd' is text .*read as a number"),
        ({"iscrowd": None}, "'iscrowd' is null .*read as 0"),
        ({"iscrowd": False}, "'iscrowd' is true or false"),
        ({"iscrowd": 0.0}, None),
        ({"area": None}, "'area' is null .*the box's area"),
        ({"area": " 1e2 "}, "'area' is text"),
        ({"bbox": ["2", "3", "10.0", 12]}, "'bbox' is text"),
        ({"bbox": {"x": 2, "y": 3, "width": 10, "height": 12}}, "'bbox' is an object"),
        ({"bbox": [[2, 3, 10, 12]]}, "'bbox' is a list in a list"),
        ({"category_id": "7"}, "'category_id' is text"),
        ({"category_id": 7.0}, "'category_id' is a decimal number"),
        ({"image_id": "10"}, "'image_id' is text"),
        ({"id": "1"}, "'id' is text"),
        ({"id": None}, "no 'id'"),
        ({"id": "9f-ab"}, None),
        ({"id": 0}, None),
        ({"id": -4}, None),
    ],
)
def test_fields_that_mean_something_are_read(
    write_coco: Write, coco_json: dict[str, Any], change: dict[str, Any], told: str | None
) -> None:
    coco_json["annotations"][0].update(change)
    root = write_coco(coco_json)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert objects(root) == (3, 1.0)
    said = [str(item.message) for item in seen if "instances_" in str(item.message)]
    assert len(said) == (0 if told is None else 2)  # once per file
    if told is not None:
        with pytest.warns(UserWarning, match=told):
            objects(root)


@pytest.mark.parametrize(
    "change",
    [
        {"iscrowd": "false"}, {"iscrowd": 2}, {"iscrowd": [0]}, {"area": [320]}, {"area": -3}, {"area": float("nan")},
        {"area": True}, {"area": "large"}, {"bbox": None}, {"bbox": [1, 2, 3, 4, 5]}, {"bbox": [[1, 2], [3, 4]]},
        {"bbox": [1, 2, None, 4]}, {"bbox": [1, 2, 1e300, 4]}, {"bbox": [1, 2, 10**400, 4]}, {"bbox": [1, 2, "nan", 4]},
        {"category_id": "zebra"}, {"category_id": 7.5}, {"category_id": 10**30}, {"category_id": None},
        {"image_id": None}, {"image_id": "elsewhere"}, {"id": [1]},
    ],
)  # fmt: skip
def test_anything_else_is_refused_when_the_file_is_opened(
    write_coco: Write, coco_json: dict[str, Any], change: dict[str, Any]
) -> None:
    coco_json["annotations"][1].update(change)
    with pytest.raises(DataError, match=r"instances_train2017.json: .*annotation (2|number 1)") as error:
        objects(write_coco(coco_json))
    assert "\n" not in str(error.value)


def test_annotation_ids_from_zero_are_no_misses(write_coco: Write, coco_json: dict[str, Any]) -> None:
    for number, annotation in enumerate(coco_json["annotations"]):
        annotation["id"] = number
    root = write_coco(coco_json)
    assert objects(root) == (3, 1.0)
    assert objects(root, masks=True) == (3, 1.0)


@pytest.mark.parametrize("odd", [None, "a7", 2**63, -(2**70), 10**30])
def test_annotation_ids_of_any_kind_are_numbered(write_coco: Write, coco_json: dict[str, Any], odd: Any) -> None:
    coco_json["annotations"][0]["id"] = odd
    coco_json["annotations"][1]["id"] = None
    root = write_coco(coco_json)
    data = COCODataModule(root, num_workers=0)
    dataset = data.build_dataset("val2017", train=False)
    found = [annotation["id"] for k in range(len(dataset)) for annotation in dataset[k]["target"]["annotations"]]
    assert len(found) == len(set(found)) == len(coco_json["annotations"])
    assert {3, 4} <= set(found)


def test_image_ids_that_are_text(write_coco: Write, coco_json: dict[str, Any]) -> None:
    for record in coco_json["images"]:
        record["id"] = record["file_name"]
    for record in coco_json["annotations"]:
        record["image_id"] = f"{record['image_id']}.png"
    root = write_coco(coco_json)
    with pytest.warns(UserWarning, match=r"the 'id' of an image is text \(image '10.png' is 1, .*results files"):
        data = COCODataModule(root, num_workers=0).build_dataset("val2017", train=False)
    assert data.image_ids() == [1, 2, 3]
    with pytest.warns(UserWarning):
        assert objects(root) == (3, 1.0)


def test_sizes_that_are_text_or_null(write_coco: Write, coco_json: dict[str, Any]) -> None:
    coco_json["images"][0].update(height="24", width="3.2e1")
    coco_json["images"][1].update(height=None, width=None)
    root = write_coco(coco_json)
    with pytest.warns(UserWarning, match="'height' is text"):
        dataset = COCODataModule(root, num_workers=0).build_dataset("val2017", train=False)
    assert [dataset[k]["target"]["original_size"] for k in range(3)] == [(24, 32)] * 3


def test_categories_without_a_name_of_their_own(write_coco: Write, coco_json: dict[str, Any]) -> None:
    coco_json["categories"] = [{"id": 3, "name": "ant"}, {"id": 7, "name": "ant"}, {"id": "9", "name": " "}]
    data = COCODataModule(write_coco(coco_json), num_workers=0)
    with pytest.warns(UserWarning, match="categories have the same name"):
        data.build_dataset("train2017", train=True)
    assert data.class_names == ["ant (3)", "ant (7)", "category 9"]
    assert data.class_ids == [3, 7, 9]


def test_the_root_category_of_roboflow(write_coco: Write, coco_json: dict[str, Any]) -> None:
    for record in coco_json["categories"]:
        record["supercategory"] = "animal"
    coco_json["categories"].insert(0, {"id": 0, "name": "animal", "supercategory": "none"})
    root = write_coco(coco_json)
    with pytest.warns(UserWarning, match="'animal' has no object and is the supercategory of others"):
        COCODataModule(root, num_workers=0).setup("validate")
    data = COCODataModule(root, num_workers=0, drop_root_category=True)
    data.setup("fit")
    assert data.class_names == ["ant", "zebra"]
    assert COCODataModule(root, predict_root=root / "val2017", drop_root_category=True).build_predict_dataset()
    coco_json["annotations"][0]["category_id"] = 0
    with pytest.raises(DataError, match="'animal' has objects; set drop_root_category to false"):
        COCODataModule(write_coco(coco_json), num_workers=0, drop_root_category=True).setup("fit")


@pytest.mark.parametrize(
    ("convert", "told"),
    [
        (lambda x, y, w, h: [x / 32, y / 24, w / 32, h / 24], "are these fractions of the image"),
        (lambda x, y, w, h: [x, y, x + w, y + h], "the boxes look like"),
    ],
)
def test_boxes_in_other_units(
    write_coco: Write, coco_json: dict[str, Any], convert: Callable[..., list[float]], told: str
) -> None:
    boxes = [(20, 10, 10, 12), (18, 4, 8, 8), (3, 12, 9, 11), (12, 2, 15, 20), (1, 1, 30, 22), (15, 10, 16, 13)]
    coco_json["annotations"] = [
        {"id": k + 1, "image_id": 10, "category_id": 3, "bbox": convert(*box), "iscrowd": 0}
        for k, box in enumerate(boxes)
    ]
    findings = Findings(collect=True)
    root = write_coco(coco_json)
    read_coco(root / "annotations" / "instances_train2017.json", root / "train2017", findings)
    assert any(told in finding.what for finding in findings.all)


def test_a_check_collects_everything_and_keeps_the_rest(write_coco: Write, coco_json: dict[str, Any]) -> None:
    coco_json["annotations"][0]["bbox"] = "0 0 1 1"
    coco_json["annotations"][1]["image_id"] = 77
    coco_json["images"][2]["file_name"] = "lost.png"
    coco_json["images"].append({"id": 20, "file_name": "20.png"})
    coco_json["annotations"].append(dict(coco_json["annotations"][3], id=9))
    root = write_coco(coco_json)
    findings = Findings(collect=True)
    coco = read_coco(root / "annotations" / "instances_train2017.json", root / "train2017", findings)
    refused = {finding.what for finding in findings.all if finding.outcome == "refused"}
    assert len(refused) == 4 and findings.refused
    assert [image.id for image in coco] == [10, 20]
    assert coco.objects.tolist() == [0, 2]
    assert any("listed twice" in finding.what and finding.count == 1 for finding in findings.all)
    categories, owners = coco.classes()
    assert (categories.tolist(), owners.tolist()) == ([3, 3], [1, 1])


@pytest.mark.parametrize("text", ['{"images": [' + "[" * 5000, '{"a": ' * 100_000, '{"images": [], "images": []}'])
def test_deep_or_doubled_json_is_one_line(write_coco: Write, text: str) -> None:
    with pytest.raises(DataError, match=r"instances_train2017.json: ") as error:
        COCODataModule(write_coco(text), num_workers=0).setup("fit")
    assert "\n" not in str(error.value)


def test_the_file_may_begin_with_anything_and_have_more(write_coco: Write, coco_json: dict[str, Any]) -> None:
    keys = ("annotations", "categories", "images")
    shuffled = {"videos": [1, {"a": []}], "info": None, **{key: coco_json[key] for key in keys}, "zz": [[]]}
    for image in shuffled["images"]:
        image.update(neg_category_ids=[1], not_exhaustive_category_ids=[])
    assert objects(write_coco("\ufeff\n " + json.dumps(shuffled, indent=1) + "\n ")) == (3, 1.0)


def test_val_fraction_divides_the_training_file(write_coco: Write, coco_json: dict[str, Any], save: Any) -> None:
    root = write_coco(coco_json)
    images, annotations = [], []
    for number in range(40):
        save(root / "train2017" / f"x{number}.png")
        images.append({"id": number, "file_name": f"x{number}.png", "height": 24, "width": 32})
        for k, category in enumerate([3] if number % 10 else [3, 7]):
            key = 2 * number + k
            annotations.append({"id": key, "image_id": number, "category_id": category, "bbox": [1, 1, 9, 9]})
    content = {**coco_json, "images": images, "annotations": annotations}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    data = COCODataModule(root, num_workers=0, val_fraction=0.25)
    data.setup("fit")
    train, val = [data.datasets[name].image_ids() for name in ("train", "val")]  # type: ignore[attr-defined]
    assert not set(train) & set(val) and len(train) + len(val) == 40
    assert len(val) == pytest.approx(10, abs=1)
    assert sum(number % 10 == 0 for number in val) == 1  # of the four with the rare category
    assert np.all(np.diff(val) > 0)


def test_a_box_of_nothing_is_told_once(write_coco: Write, coco_json: dict[str, Any]) -> None:
    """Beside an ordinary box of fractions, too; and it is not outside its image."""
    coco_json["annotations"][0]["bbox"] = [3.0, 3.0, 1e-320, 1e-320]
    findings = Findings(collect=True)
    module = COCODataModule(write_coco(coco_json), num_workers=0)
    module.findings = findings
    module.build_dataset("train2017", train=True)
    name = f"annotation {coco_json['annotations'][0]['id']}"
    assert [found.what for found in findings.all if name in found.examples] == ["boxes of less than half a pixel"]


def test_names_of_categories_that_move_the_cursor_or_look_alike(write_coco: Write, coco_json: dict[str, Any]) -> None:
    names = ["c\x1b[2Jat", "C\x1b[2JAT"]
    coco_json["categories"] = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    for annotation in coco_json["annotations"]:
        annotation["category_id"] = 1
    module = COCODataModule(write_coco(coco_json), num_workers=0)
    with pytest.warns(UserWarning, match="differ in case, spaces or Unicode form only"):
        module.build_dataset("train2017", train=True)
    assert module.class_names == ["c\\x1b[2Jat", "C\\x1b[2JAT"]
