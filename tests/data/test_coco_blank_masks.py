"""If these fail, masks without a pixel are trained on, and nobody is told that a file has fractions for pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dyvision.data import COCODataModule, DataError
from dyvision.data.findings import Findings

SQUARE = [2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]
FRACTIONS = [0.1, 0.1, 0.6, 0.1, 0.6, 0.6, 0.1, 0.6]
BITMAP = [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0]]


def content(segmentations: list[Any]) -> dict[str, Any]:
    annotations = [
        {"id": k + 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10 + k / 8, 10], "area": 100, "iscrowd": 0,
         "segmentation": segmentation}
        for k, segmentation in enumerate(segmentations)
    ]  # fmt: skip
    images = [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}]
    return {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": annotations}


@pytest.fixture
def read(tmp_path: Path, save: Any) -> Any:
    import json

    import numpy as np

    def run(segmentations: list[Any]) -> tuple[Any, Findings]:
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content(segmentations)))
        save(tmp_path / "train2017" / "a.png", np.zeros((20, 30, 3), np.uint8))
        module = COCODataModule(tmp_path, num_workers=0, masks=True)
        module.findings = Findings(collect=True)
        return module.build_dataset("train2017", train=True), module.findings

    return run


@pytest.mark.parametrize(
    "blank",
    [
        [FRACTIONS],
        BITMAP,
        [[100, 2, 112, 2, 112, 12, 100, 12]],
        [[-12, 2, -2, 2, -2, 12, -12, 12]],
        [[2, 30, 12, 30, 12, 40, 2, 40]],
        [[5, 5, 5, 5, 5, 5]],
        {"size": [20, 30], "counts": [600]},
        {"size": [20, 30], "counts": "hb0"},
    ],
)
def test_masks_without_a_pixel_are_told_and_not_trained_on(read: Any, blank: Any) -> None:
    runs = {"size": [20, 30], "counts": [40, 10, 550]}
    dataset, findings = read([[SQUARE], blank, runs, [SQUARE]])
    found = [finding for finding in findings.all if "pixel" in finding.what]
    assert [(finding.outcome, finding.examples) for finding in found] == [("warned", ["annotation 2"])]
    masks = dataset[0]["target"]["masks"]
    assert len(masks) == 3
    assert masks.flatten(1).sum(1).min() > 0


@pytest.mark.parametrize("blank", [[FRACTIONS], BITMAP])
def test_a_file_without_any_mask_that_covers_something_is_refused(tmp_path: Path, read: Any, blank: Any) -> None:
    _, findings = read([blank, blank])
    assert any(f.outcome == "refused" and "no polygon covers a pixel" in f.what for f in findings.all)
    with pytest.raises(DataError, match="no polygon covers a pixel of its box"):
        COCODataModule(tmp_path, num_workers=0, masks=True).build_dataset("train2017", train=True)


def test_small_objects_are_masks(read: Any) -> None:
    dataset, findings = read([[SQUARE], [[3.0, 3.0, 5.0, 3.0, 5.0, 5.0, 3.0, 5.0]]])
    assert findings.all == []
    assert len(dataset[0]["target"]["masks"]) == 2
