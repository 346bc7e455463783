"""If these fail, detection trains on wrong boxes, or a broken annotation file is believed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api

from dyvision.data import COCODataModule, DataError

Write = Callable[..., Path]


def module(root: Path, **options: Any) -> COCODataModule:
    return COCODataModule(root, **{"batch_size": 2, "num_workers": 0, "train_transform": [], **options})


def test_targets_of_training(write_coco: Write, coco_json: dict[str, Any]) -> None:
    data = module(write_coco(coco_json), masks=True)
    data.setup("fit")
    assert (data.num_classes, data.class_ids, data.class_names) == (2, [3, 7], ["ant", "zebra"])
    assert len(data.datasets["train"]) == 2  # the image without objects is left out
    sample = data.datasets["train"][0]
    target = sample["target"]
    assert sample["image"].shape == (3, 24, 32)
    assert (float(sample["image"].min()), float(sample["image"].max())) == (0.0, pytest.approx(248 / 255))
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[2, 3, 12, 15], [16, 4, 24, 12]]  # no crowd
    assert target["labels"].tolist() == [2, 1]
    assert target["masks"].dtype == torch.uint8
    assert target["masks"].shape == (2, 24, 32)
    assert target["masks"].flatten(1).sum(1).tolist() == [120, 64]
    assert target["masks"][0, 3:15, 2:12].all()
    assert (target["image_id"], target["original_size"]) == (10, (24, 32))
    assert "annotations" not in target


def test_targets_of_evaluation_keep_everything(write_coco: Write, coco_json: dict[str, Any]) -> None:
    data = module(write_coco(coco_json), masks=True)
    data.setup("validate")
    dataset = data.datasets["val"]
    assert [dataset[k]["target"]["image_id"] for k in range(len(dataset))] == [10, 20, 30]
    assert dataset[0]["target"]["annotations"] == coco_json["annotations"][:3]
    without = module(data.root)  # polygons are most of a file, and boxes do not need them
    without.setup("validate")
    for annotation in coco_json["annotations"]:
        del annotation["segmentation"]
    assert without.datasets["val"][0]["target"]["annotations"] == coco_json["annotations"][:3]
    assert dataset[0]["target"]["boxes"].shape == (2, 4)
    empty = dataset[2]["target"]
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].shape == (0,)
    assert empty["labels"].dtype == torch.int64
    assert empty["annotations"] == []


def test_the_batch_is_lists(write_coco: Write, coco_json: dict[str, Any]) -> None:
    data = module(write_coco(coco_json), eval_batch_size=3)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert set(batch) == {"image", "target", "path", "valid"}
    assert isinstance(batch["image"], list)
    assert len(batch["image"]) == len(batch["target"]) == 3
    assert batch["valid"].tolist() == [True] * 3


def test_images_without_objects_can_stay(write_coco: Write, coco_json: dict[str, Any]) -> None:
    data = module(write_coco(coco_json), skip_empty=False, masks=True)
    data.setup("fit")
    dataset = data.datasets["train"]
    assert len(dataset) == 3
    assert dataset[2]["target"]["masks"].shape == (0, 24, 32)


def test_every_kind_of_segmentation(write_coco: Write, coco_json: dict[str, Any]) -> None:
    expected = np.zeros((24, 32), np.uint8)
    expected[3:15, 2:12] = 1
    flat = np.concatenate([[0], expected.ravel(order="F"), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff([0, *edges, expected.size]).tolist()
    coded = mask_api.encode(np.asfortranarray(expected))
    for segmentation in (
        {"size": [24, 32], "counts": counts},
        {"size": [24, 32], "counts": coded["counts"].decode()},
        [[2, 3, 7, 3, 7, 15, 2, 15], [7, 3, 12, 3, 12, 15, 7, 15]],
    ):
        coco_json["annotations"][0]["segmentation"] = segmentation
        data = module(write_coco(coco_json), masks=True)
        data.setup("fit")
        assert np.array_equal(data.datasets["train"][0]["target"]["masks"][0].numpy(), expected)


def test_masks_that_are_missing(write_coco: Write, coco_json: dict[str, Any]) -> None:
    coco_json["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    data = module(write_coco(coco_json), masks=True)
    with pytest.warns(UserWarning, match="1 of 3 objects have no mask"):
        data.setup("fit")
    assert data.datasets["train"][0]["target"]["labels"].tolist() == [1]
    for annotation in coco_json["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(DataError, match="no annotation has a segmentation; set masks to false"):
        module(write_coco(coco_json), masks=True).setup("fit")
    module(write_coco(coco_json)).setup("fit")


@pytest.mark.parametrize(
    "segmentation", [{"size": [4, 4], "counts": [16]}, {"size": [24, 32], "counts": {}}, [["a", "b", 1, 2, 3, 4]]]
)
def test_masks_that_cannot_be_decoded(write_coco: Write, coco_json: dict[str, Any], segmentation: Any) -> None:
    coco_json["annotations"][0]["segmentation"] = segmentation
    data = module(write_coco(coco_json), masks=True)
    with pytest.raises(DataError, match=r"instances_train2017.json: .*annotation 1"):
        data.setup("fit")
    module(write_coco(coco_json)).setup("fit")  # boxes do not need it


def test_boxes_are_repaired_counted_and_reported_once(write_coco: Write, coco_json: dict[str, Any]) -> None:
    boxes = [[2, 3, 0, 5], [2, 3, 5, -1], [40, 3, 5, 5], [-4, -2, 10, 10], [28, 20, 10, 10]]
    coco_json["annotations"] = [
        {**coco_json["annotations"][0], "id": number, "bbox": box} for number, box in enumerate(boxes)
    ]
    root = write_coco(coco_json)
    with pytest.warns(UserWarning) as record:
        data = module(root)
        data.setup("validate")
    told = [str(item.message).split(".json: ")[1] for item in record]
    assert [message.split("; ")[0] for message in told] == [
        "boxes of zero or negative size (annotation 0, annotation 1)",
        "boxes outside their image (annotation 2)",
        "boxes reaching over the border of their image (annotation 3, annotation 4)",
    ]
    target = data.datasets["val"][0]["target"]
    assert target["boxes"].tolist() == [[0, 0, 6, 8], [28, 20, 32, 24]]
    assert [item["bbox"] for item in target["annotations"]] == boxes  # untouched


def test_area_and_crowd_flags_are_filled_in(write_coco: Write, coco_json: dict[str, Any]) -> None:
    for annotation in coco_json["annotations"]:
        del annotation["area"], annotation["iscrowd"], annotation["segmentation"]
    for image in coco_json["images"]:
        del image["height"], image["width"]
    data = module(write_coco(coco_json))
    data.setup("validate")
    annotation = data.datasets["val"][1]["target"]["annotations"][0]
    assert (annotation["area"], annotation["iscrowd"]) == (90.0, 0)
    assert data.datasets["val"][1]["target"]["original_size"] == (24, 32)


def test_an_image_of_another_size_than_stated(write_coco: Write, coco_json: dict[str, Any]) -> None:
    coco_json["images"][0]["width"] = 31
    data = module(write_coco(coco_json))
    data.setup("validate")
    with pytest.raises(DataError, match=r"10.png is 24x32 \(height x width\) but .* says 24x31"):
        data.datasets["val"][0]


def test_paths_are_arguments(write_coco: Write, coco_json: dict[str, Any]) -> None:
    root = write_coco(coco_json)
    (root / "train").mkdir()
    os.replace(root / "train2017", root / "train" / "pictures")
    os.replace(root / "annotations" / "instances_train2017.json", root / "train" / "labels.json")
    data = module(
        root, train_split="train", val_split="train", images="{split}/pictures", annotations="{split}/labels.json"
    )
    data.setup("validate")
    assert len(data.datasets["val"]) == 3
    with pytest.raises(DataError, match=r"no annotation file .*instances_val.json.*'instances_val2017.json'"):
        module(root, val_split="val").setup("validate")
    with pytest.raises(DataError, match=r"no image folder .*val.*'val2017'"):
        module(root, annotations="annotations/instances_val2017.json", val_split="val").setup("validate")
    with pytest.raises(DataError, match="it does not exist; expected <root>/train2017"):
        module(root / "nowhere").setup("fit")


def test_resizing_scales_boxes_and_masks(write_coco: Write, coco_json: dict[str, Any]) -> None:
    data = module(write_coco(coco_json), image_size=64, masks=True)
    data.setup("validate")
    target = data.datasets["val"][0]["target"]
    assert data.datasets["val"][0]["image"].shape == (3, 48, 64)
    assert target["boxes"].numpy() == pytest.approx(np.array([[4, 6, 24, 30], [32, 8, 48, 24]]), abs=1e-3)
    assert target["masks"].shape == (2, 48, 64)
    assert target["original_size"] == (24, 32)


MOVING = [
    {"CenterCrop": {"height": 8, "width": 8}},
    {"PadIfNeeded": {"min_height": 64, "min_width": 64}},
    {"HorizontalFlip": {"p": 1.0}},
    {"RandomScale": {"p": 1.0}},
    {"OneOf": {"transforms": ["VerticalFlip", "Transpose"]}},
]


@pytest.mark.parametrize("transform", MOVING, ids=lambda spec: next(iter(spec)))
def test_detections_of_what_cannot_be_undone_are_refused(tmp_path: Path, transform: dict[str, Any]) -> None:
    """The boxes would be compared and saved in pixels of another image, without a word."""
    spec = [{"Resize": {"height": 16, "width": 16}}, transform]
    name = next(iter(transform)) if "OneOf" not in transform else "VerticalFlip, Transpose"
    with pytest.raises(ValueError, match=rf"eval_transform: .*, and {name} cannot be undone; .*only resize") as told:
        module(tmp_path, eval_transform=spec)
    assert "\n" not in str(told.value)
    module(tmp_path, train_transform=spec)


def test_what_only_resizes_or_changes_colours_evaluates(tmp_path: Path) -> None:
    for spec in (
        {"SmallestMaxSize": {"max_size": 9}},
        "ColorJitter",
        {"OneOf": {"transforms": ["Blur", "RandomGamma"]}},
    ):
        module(tmp_path, eval_transform=[spec], image_size=20)


def test_prediction_knows_the_ids(write_coco: Write, coco_json: dict[str, Any]) -> None:
    root = write_coco(coco_json)
    data = module(root, eval_batch_size=3)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert set(batch) == {"image", "path", "valid", "original_size", "image_id"}
    assert batch["image_id"] == [10, 20, 30]
    bare = module("nowhere", predict_root=root / "val2017")
    bare.setup("predict")
    assert len(bare.datasets["predict"]) == 3
    assert bare.num_classes is None
    known = module(root, predict_root=root / "val2017" / "20.png")
    known.setup("predict")
    assert known.class_names == ["ant", "zebra"]


def test_the_sample_data_is_a_valid_coco_file(sample_data: Path) -> None:
    from pycocotools.coco import COCO

    for split in ("train2017", "val2017"):
        data = module(sample_data / "coco", masks=True, val_split=split)
        data.setup("validate")
        dataset = data.datasets["val"]
        coco = COCO(str(sample_data / "coco" / "annotations" / f"instances_{split}.json"))
        for index in range(len(dataset)):
            target = dataset[index]["target"]
            expected = [item for item in coco.imgToAnns[target["image_id"]] if not item["iscrowd"]]
            for mask, item in zip(target["masks"], expected, strict=True):
                assert np.array_equal(mask.numpy(), coco.annToMask(item))
