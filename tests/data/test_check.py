"""If these fail, a check of a data set does not say what training will do with it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyvision.cli import main
from dyvision.data import CityscapesDataModule, COCODataModule, ImageFolderDataModule
from dyvision.data.check import Report, check


def kinds(report: Report) -> set[tuple[str, str, str]]:
    return {(one.outcome, Path(one.file).name, one.what.split(":")[0]) for one in report.findings.all}


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_wrong_with_a_folder_is_listed(folder: Path, save: Any, workers: int) -> None:
    shutil.copy(folder / "train" / "cat" / "1.png", folder / "val" / "cat" / "copy.png")
    (folder / "train" / "cat" / "broken.png").write_bytes(b"no picture")
    os.symlink("nowhere", folder / "train" / "dog" / "dead.png")
    save(folder / "train" / "dog" / "nan.tif", np.array([[np.nan]], np.float32))
    tags = Image.Exif()
    tags[0x0112] = 3
    for k in range(2):
        save(folder / "train" / "dog" / f"turned{k}.jpg", np.full((4, 4, 3), 100 + k, np.uint8), exif=tags)
    (folder / "train" / "@eaDir").mkdir()
    report = check(ImageFolderDataModule(folder, num_workers=0), num_workers=workers)
    found = kinds(report)
    assert {(outcome, name) for outcome, name, _ in found if outcome == "refused"} == {
        ("refused", "broken.png"), ("refused", "dog"), ("refused", "nan.tif")
    }  # fmt: skip
    assert ("warned", "copy.png", "the same picture is in the split 'train'") in found
    assert ("repaired", "train", "system folders between the data") in found
    assert len([1 for _, name, _ in found if name.startswith("turned")]) == 2
    train, val = report.splits
    assert (train.images, train.broken, val.images) == (8, 2, 3)
    assert (dict(train.objects), train.sizes[20, 30], train.sizes[4, 4]) == ({0: 3, 1: 5}, 6, 2)


def test_a_clean_set_has_statistics_and_no_findings(cityscapes: Path) -> None:
    report = check(CityscapesDataModule(cityscapes, num_workers=0, classes=["road", "sky"]))
    assert [one for one in report.findings.all if "same picture" not in one.what] == []
    train = report.splits[0].as_dict()
    assert train["classes"] == [{"name": "road", "pixels": 2 * 23 * 16}, {"name": "sky", "pixels": 2 * 23 * 16}]
    assert train["ignored_share"] == pytest.approx(1 / 24)
    assert train["sizes"] == [{"height": 24, "width": 32, "images": 2}]


def test_label_maps_are_checked(cityscapes: Path, save: Any) -> None:
    labels = cityscapes / "gtFine" / "train" / "town"
    save(labels / "a_gtFine_labelIds.png", np.full((24, 32), 99, np.uint8))
    save(labels / "b_gtFine_labelIds.png", np.full((24, 32, 3), 7, np.uint8))
    report = check(CityscapesDataModule(cityscapes, num_workers=0))
    found = kinds(report)
    assert ("refused", "a_gtFine_labelIds.png", "label ids outside the table") in found
    assert ("repaired", "b_gtFine_labelIds.png", "label ids stored as grey in a picture with several channels") in found
    assert any("18 classes without a pixel" in what for _, name, what in found if name == "train")


def test_detection(write_coco: Any, coco_json: dict[str, Any]) -> None:
    root = write_coco(coco_json)
    report = check(COCODataModule(root, num_workers=0))
    assert [split.images for split in report.splits] == [3, 3]
    assert sum(report.splits[0].objects.values()) == 3


def test_the_command(folder: Path, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "report.json"
    save_to = ["--workers", "0", "--json", str(target)]
    assert main(["data", "check", str(folder), *save_to]) == 0
    assert not json.loads(target.read_text())["refused"]
    (folder / "val" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(folder), *save_to])
    assert ended.value.code == 1
    report = json.loads(target.read_text())
    assert report["refused"]
    assert [one["file"] for one in report["findings"] if one["outcome"] == "refused"] == [str(folder / "val/cat/0.png")]
    assert "val/cat/0.png" in capsys.readouterr().out.replace("\n", "")
    assert main(["data", "check", str(folder), "--data.val_fracton", "0.2"]) == 2
    assert "did you mean 'val_fraction'" in capsys.readouterr().err


def test_show_takes_the_options_of_the_data(tmp_path: Path, save: Any) -> None:
    for k in range(3):
        save(tmp_path / "images" / f"{k}.jpg")
        save(tmp_path / "masks" / f"{k}.png", np.zeros((24, 32), np.uint8))
    config = tmp_path / "a.yaml"
    config.write_text("task: segmentation\ndata:\n  label_table: {0: crack}\nmodel:\n  layer: dcd\n")
    output = tmp_path / "sheet.png"
    options = ["--config", str(config), "--data.val_fraction=0.4", "--data.image_size", "[12,16]"]
    assert main(["data", "show", str(tmp_path), "--split=val", "--output", str(output), *options]) == 0
    assert Image.open(output).width > 100


def test_a_layout_of_another_format_is_one_line(write_coco: Any, coco_json: dict[str, Any], capsys: Any) -> None:
    root = write_coco(coco_json)
    assert main(["data", "check", str(root), "--data.layout", "voc", "--format", "coco"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--data.layout='voc': expected one of coco, roboflow, lvis" in line and "--format cityscapes" in line
    assert "Parser key" not in line


def test_a_bad_label_map_is_counted_once(cityscapes: Path, save: Any) -> None:
    """The look before training reads some maps first; here that must not count."""
    bad = sorted((cityscapes / "gtFine" / "train").rglob("*_gtFine_labelIds.png"))
    assert bad
    for path in bad:
        save(path, np.full((24, 32), 77, np.uint8))
    report = check(CityscapesDataModule(cityscapes, num_workers=0))
    refused = [one for one in report.findings.all if one.outcome == "refused" and "label ids" in one.what]
    assert sorted(one.file for one in refused) == sorted(map(str, bad))
    assert {one.count for one in refused} == {1}
    for path in bad:
        save(path, np.full((24, 32, 3), 7, np.uint8))
    report = check(CityscapesDataModule(cityscapes, num_workers=0))
    repaired = [one for one in report.findings.all if one.outcome == "repaired" and "grey" in one.what]
    assert len(repaired) == len(bad) and {one.count for one in repaired} == {1}


def test_both_parts_of_a_division_are_shown(folder: Path, capsys: Any) -> None:
    whole = len(list((folder / "train").rglob("*.png")))
    assert main(["data", "check", str(folder), "--workers=0", "--data.val_fraction=0.3"]) in (0, None)
    out = capsys.readouterr().out
    module = ImageFolderDataModule(str(folder), num_workers=0, val_fraction=0.3)
    kept = len(module.build_validation_dataset())
    assert f"train, without val_fraction: {whole - kept} images" in out
    assert f"train, val_fraction=0.3: {kept} images" in out


def test_many_classes_say_where_the_counts_are(folder: Path, save: Any, capsys: Any) -> None:
    for split in ("train", "val"):
        for number in range(50):
            save(folder / split / f"c{number:02}" / f"{split}.png")
    main(["data", "check", str(folder), "--workers=0"])
    assert "classes: --json FILE" in capsys.readouterr().out


def test_one_class_is_one(write_coco: Any, coco_json: dict[str, Any]) -> None:
    coco_json["categories"].append({"id": 99, "name": "unused"})
    report = check(COCODataModule(write_coco(coco_json), num_workers=0))
    assert any(one.what == "1 class without an object: unused" for one in report.findings.all)
