"""If these failed, the AP we print would not be the AP pycocotools computes from the files we save."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dyvision.tasks.metrics.coco import COCO_NUMBERS, CocoEvaluator, encode_masks

_spec = importlib.util.spec_from_file_location("coco_scenes", Path(__file__).with_name("coco_scenes.py"))
_scenes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_scenes)
CATEGORIES, make_truth, make_batch = _scenes.CATEGORIES, _scenes.make_truth, _scenes.make_batch
evaluator = _scenes.evaluator


def reference(truth_file, results_file, kind: str) -> list[float]:
    truth = COCO(str(truth_file))
    evaluation = COCOeval(truth, truth.loadRes(str(results_file)), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


def test_twelve_numbers_equal_cocoeval_on_the_saved_files(tmp_path):
    truth = make_truth()
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(truth))
    detections, targets = make_batch(truth)
    ours = evaluator()
    for start in range(0, len(targets), 3):
        ours.update(detections[start : start + 3], targets[start : start + 3])
    values = ours.compute()
    paths = ours.save(tmp_path / "out", "val")

    assert [path.name for path in paths] == ["coco_results_val_bbox.json", "coco_results_val_segm.json"]
    for name, kind, path in zip(("box", "mask"), ("bbox", "segm"), paths, strict=True):
        expected = reference(file, path, kind)
        assert [values[f"{name}_{number}"] for number in COCO_NUMBERS] == expected  # exactly
        assert 0.05 < expected[0] < 0.95 and len({round(number, 6) for number in expected}) > 8  # it could fail


def test_results_file_has_cocos_format(tmp_path):
    detections, targets = make_batch(make_truth())
    ours = evaluator()
    ours.update(detections, targets)
    ours.compute()
    boxes, masks = (json.loads(path.read_text()) for path in ours.save(tmp_path, "test"))

    assert set(boxes[0]) == {"image_id", "category_id", "bbox", "score"}
    assert set(masks[0]) == {"image_id", "category_id", "segmentation", "score"}
    assert isinstance(masks[0]["segmentation"]["counts"], str)
    x1, y1, x2, y2 = detections[0]["boxes"][0].tolist()
    assert boxes[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-3)
    assert {entry["category_id"] for entry in boxes} <= set(CATEGORIES)


def test_the_truth_as_detections_gives_one():
    truth = make_truth()
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    _, targets = make_batch(truth)
    detections = []
    for target in targets:
        boxes = torch.tensor([a["bbox"] for a in target["annotations"]], dtype=torch.float64).reshape(-1, 4)
        masks = [torch.from_numpy(coco.annToMask(a)) for a in target["annotations"]]
        detections.append(
            {
                "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
                "scores": torch.linspace(0.5, 0.9, len(boxes)),
                "category_ids": torch.tensor([a["category_id"] for a in target["annotations"]], dtype=torch.int64),
                "masks": torch.stack(masks) if masks else torch.zeros(0, *target["original_size"]),
            }
        )
    ours = evaluator()
    ours.update(detections, targets)
    values = ours.compute()
    assert values["box_AP"] == values["mask_AP"] == values["box_AR_100"] == 1.0
    assert [ours.per_class[name]["box_AP"] for name in CATEGORIES.values()] == [1.0, 1.0, 1.0]


def test_per_class_values_average_to_the_whole():
    ours = evaluator(masks=False)
    ours.update(*make_batch(make_truth()))
    values = ours.compute()
    for name in ("box_AP", "box_AP50"):
        per_class = [numbers[name] for numbers in ours.per_class.values()]
        assert len(set(per_class)) == 3
        assert np.mean(per_class) == pytest.approx(float(values[name]), abs=1e-12)


def empty_detection(height: int, width: int) -> dict:
    return {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "category_ids": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, height, width, dtype=torch.bool),
    }


def test_nothing_detected_nothing_to_find_nothing_seen(capsys, tmp_path):
    truth = make_truth()
    detections, targets = make_batch(truth)
    nothing = [empty_detection(*target["original_size"]) for target in targets]

    ours = evaluator()
    ours.update(nothing, targets)
    assert ours.compute()["box_AP"] == 0.0 and ours.compute()["mask_AR_100"] == 0.0
    assert [json.loads(path.read_text()) for path in ours.save(tmp_path, "val")] == [[], []]

    for found in (nothing, detections):
        ours.reset()
        ours.update(found, [{**target, "annotations": []} for target in targets])
        assert {float(value) for value in ours.compute().values()} == {-1.0}

    ours.reset()
    ours.update([], [])
    assert {float(value) for value in ours.compute().values()} == {-1.0}
    assert ours.per_class["car"]["box_AP"] == -1.0
    assert capsys.readouterr().out == ""


def test_padding_and_repeated_images_count_once():
    detections, targets = make_batch(make_truth())
    once = evaluator()
    once.update(detections, targets)
    padded = evaluator()
    padded.update(detections[:4], targets[:4])
    wrong = [{**found, "scores": 1 - found["scores"]} for found in detections]
    padded.update(wrong[3:4] + detections[4:], targets[3:])
    padded.update(wrong[:2], targets[:2], valid=torch.tensor([False, False]))
    assert padded.compute() == once.compute()

    skipped = evaluator()
    skipped.update(detections, targets, valid=[True] * 6 + [False])
    assert skipped.compute() != once.compute()


def test_annotations_without_area_iscrowd_or_mask_are_completed_and_kept_as_they_were():
    detections, targets = make_batch(make_truth())
    keys = ("id", "image_id", "category_id", "bbox")
    bare = [{**t, "annotations": [{key: a[key] for key in keys} for a in t["annotations"]]} for t in targets]
    before = json.dumps(bare)
    ours = evaluator()
    ours.update(detections, bare)
    values = ours.compute()
    assert values["box_AP"] > 0 and values["mask_AP"] == -1.0
    assert json.dumps(bare) == before


def test_masks_survive_the_run_length_code():
    mask = torch.rand(2, 11, 7) > 0.5
    from pycocotools import mask as mask_api

    for expected, code in zip(mask, encode_masks(mask), strict=True):
        assert np.array_equal(mask_api.decode(code), expected.numpy())


def test_ids_of_the_annotations_change_nothing():
    truth = make_truth()
    detections, targets = make_batch(truth)
    expected = evaluator()
    expected.update(detections, targets)
    expected = expected.compute()
    for change in (lambda a: a["id"] - 1, lambda a: -a["id"], lambda a: 7, lambda a: None, lambda a: "x"):
        ours = evaluator()
        changed = [{**t, "annotations": [{**a, "id": change(a)} for a in t["annotations"]]} for t in targets]
        ours.update(detections, changed)
        assert ours.compute() == expected


def test_detections_that_are_not_finite_are_not_found(tmp_path):
    truth = make_truth()
    detections, targets = make_batch(truth)
    nan, infinity = float("nan"), float("inf")
    for box, score in ((nan, 0.9), (infinity, 0.9), (10.0, nan), (10.0, infinity)):
        broken = evaluator()
        bad = [
            {**found, "boxes": torch.full_like(found["boxes"], box), "scores": torch.full_like(found["scores"], score)}
            for found in detections
        ]
        with pytest.warns(UserWarning, match="not finite; they count as not found") as record:
            broken.update(bad, targets)
        assert len(record) == 1
        assert broken.compute()["box_AP"] == broken.compute()["mask_AP"] == 0.0
        assert [json.loads(path.read_text()) for path in broken.save(tmp_path, "val")] == [[], []]
    mixed, without = evaluator(), evaluator()
    extra = [
        {
            "boxes": torch.cat([found["boxes"], torch.full((1, 4), nan)]),
            "scores": torch.cat([found["scores"], torch.ones(1)]),
            "category_ids": torch.cat([found["category_ids"], torch.tensor([3])]),
            "masks": torch.cat([found["masks"], torch.ones(1, *found["masks"].shape[1:], dtype=torch.bool)]),
        }
        for found in detections
    ]
    with pytest.warns(UserWarning, match="not finite"):
        mixed.update(extra, targets)
    without.update(detections, targets)
    assert mixed.compute() == without.compute()


@pytest.mark.parametrize("seed", range(3))
def test_faster_coco_eval_agrees(seed):
    pytest.importorskip("faster_coco_eval")
    truth = make_truth(12, seed)
    values, classes = [], []
    for backend in ("pycocotools", "faster-coco-eval"):
        ours = CocoEvaluator(list(CATEGORIES), list(CATEGORIES.values()), masks=True, backend=backend)
        ours.update(*make_batch(truth, seed))
        values.append({name: float(value) for name, value in ours.compute().items()})
        classes.append(ours.per_class)
    assert values[0].keys() == values[1].keys() and len(values[0]) == 24
    assert values[1] == pytest.approx(values[0], abs=1e-12)
    for name in CATEGORIES.values():
        assert classes[1][name] == pytest.approx(classes[0][name], abs=1e-12)


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="coco_eval='detectron': expected one of 'pycocotools', 'faster-coco-eval'"):
        CocoEvaluator([1], ["a"], backend="detectron")


def test_ids_must_be_unique():
    with pytest.raises(ValueError, match="different ids"):
        CocoEvaluator([1, 1], ["a", "b"])
