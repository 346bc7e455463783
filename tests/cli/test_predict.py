"""If these failed, one broken photo would cost the predictions of the others, or predictions would lie elsewhere."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyvision.cli import main

FORMATS = {"classification": "imagenet", "segmentation": "cityscapes", "detection": "coco"}
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.num_workers=0"]
SIZES = {
    "classification": [["--data.image_size=40"], ["--data.eval_transform=[{Resize: {height: 33, width: 40}}]"]],
    "segmentation": [["--data.image_size=[48,40]"], ["--data.eval_transform=[{Resize: {height: 40, width: 64}}]"]],
    "detection": [["--data.image_size=32"], ["--data.eval_transform=[{LongestMaxSize: {max_size: 32}}]"]],
}


def photo(path: Path, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def checkpoints(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One step of training in each task."""
    runs = tmp_path_factory.mktemp("runs")
    found = {}
    for task, folder in FORMATS.items():
        size = {"segmentation": ["--data.crop_size=[64,64]"], "classification": ["--data.image_size=32"]}.get(task, [])
        arguments = [
            "fit", f"--config={task}/quickstart.yaml", "--sample_data=null", f"--data.root={sample_data / folder}",
            f"--trainer.default_root_dir={runs}", "--trainer.max_steps=1", "--trainer.limit_val_batches=1",
            "--model.backbone=mobilenetv2_035", "--data.batch_size=2", *size, *QUIET,
        ]  # fmt: skip
        assert main(arguments) == 0
        found[task] = next((runs / task).rglob("last.ckpt"))
    return found


@pytest.fixture
def predict(checkpoints, tmp_path, capsys):
    """Runs ``predict`` of a task on ``tmp_path/photos``; returns exit status, output folder and what was printed."""

    def run(task: str, *options: str, output: Path = tmp_path / "out") -> tuple[int, Path, str, str]:
        status = main(
            ["predict", f"--ckpt_path={checkpoints[task]}", f"--data.predict_root={tmp_path / 'photos'}",
             f"--output={output}", "--data.eval_batch_size=4", *QUIET, *options]
        )  # fmt: skip
        said = capsys.readouterr()
        return status, output, said.out, said.err

    return run


def read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", FORMATS)
def test_a_broken_photo_costs_only_itself(task, workers, predict, tmp_path) -> None:
    photos = tmp_path / "photos"
    for number in (0, 1, 4, 9):
        photo(photos / f"{number}.jpg", seed=number)
    for number in (2, 5, 6, 7, 8):  # the second batch of four is broken as a whole
        (photos / f"{number}.jpg").write_bytes(b"no image")
    (photos / "3.jpg").symlink_to("nowhere.jpg")
    status, output, said, complained = predict(task, f"--data.num_workers={workers}")
    assert status == 1
    errors = [line for line in complained.splitlines() if line.startswith("dyvision: error")]
    assert len(errors) == 1 and "no predictions for 6 images" in errors[0] and "2.jpg" in errors[0]
    assert "4 images" in said
    failed = read_csv(output / "failed.csv")
    assert failed[0] == ["path", "reason"]
    assert [Path(row[0]).name for row in failed[1:]] == [f"{number}.jpg" for number in (2, 3, 5, 6, 7, 8)]
    good = ["0", "1", "4", "9"]
    if task == "classification":
        assert [Path(row[0]).stem for row in read_csv(output / "predictions.csv")[1:]] == good
    else:
        assert (
            sorted(path.stem for path in (output / ("labels" if task == "segmentation" else "boxes")).iterdir()) == good
        )
    if task == "detection":
        assert [Path(image["file_name"]).stem for image in json.loads((output / "images.json").read_text())] == good


@pytest.mark.parametrize("task", FORMATS)
def test_only_broken_photos(task, predict, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    status, output, _, complained = predict(task)
    assert status == 1 and "a.png" in complained and "Traceback" not in complained
    assert len(read_csv(output / "failed.csv")) == 2


def test_a_second_run_replaces_its_own_files_only(predict, tmp_path) -> None:
    photos = tmp_path / "photos"
    photo(photos / "a.png")
    (photos / "b.png").write_bytes(b"no image")
    assert predict("segmentation")[0] == 1
    mine = tmp_path / "out" / "labels" / "notes.txt"
    mine.write_text("mine")
    before = (tmp_path / "out" / "labels" / "a.png").read_bytes()
    photo(photos / "b.png", seed=3)
    status, output, _, complained = predict("segmentation")
    assert status == 0, complained
    assert mine.read_text() == "mine" and (output / "labels" / "a.png").read_bytes() == before
    assert len(read_csv(output / "failed.csv")) == 1  # nothing failed this time


@pytest.mark.parametrize("choice", [0, 1])
@pytest.mark.parametrize("task", FORMATS)
def test_predictions_have_the_size_of_the_photo(task, choice, predict, tmp_path) -> None:
    photo(tmp_path / "photos" / "wide.png", 40, 120)
    photo(tmp_path / "photos" / "high.png", 100, 30, seed=1)
    options = ["--model.score_threshold=0", "--model.detections_per_image=100"] if task == "detection" else []
    status, output, _, complained = predict(task, *SIZES[task][choice], *options)
    assert status == 0, complained
    if task == "segmentation":
        sizes = {path.stem: Image.open(path).size for path in (output / "labels").iterdir()}
        assert sizes == {"wide": (120, 40), "high": (30, 100)}
    if task == "detection":
        images = json.loads((output / "images.json").read_text())
        assert [(Path(one["file_name"]).name, one["height"], one["width"]) for one in images] == [
            ("high.png", 100, 30), ("wide.png", 40, 120),
        ]  # fmt: skip
        boxes = json.loads((output / "detections_bbox.json").read_text())
        for image in images:
            own = np.array([box["bbox"] for box in boxes if box["image_id"] == image["id"]])
            right, bottom = (own[:, :2] + own[:, 2:]).max(axis=0)
            # in pixels of the photo, not of the 32 that the network saw
            assert right <= image["width"] + 0.01 and bottom <= image["height"] + 0.01
            assert max(right, bottom) > 40


def test_drawn_boxes_follow_the_threshold(predict, tmp_path) -> None:
    photo(tmp_path / "photos" / "a.png", 64, 64)
    model = ["--model.score_threshold=0", "--model.detections_per_image=20"]
    assert "20 detections, 20 boxes drawn (score of at least 0)" in predict("detection", *model)[2]
    assert "20 detections, 7 boxes drawn" in predict("detection", *model, "--prediction.max_boxes=7")[2]
    assert (
        "0 boxes drawn (score of at least 0.9)" in predict("detection", *model, "--prediction.score_threshold=0.9")[2]
    )
    status, output, _, _ = predict("detection", "--prediction.draw=false", output=tmp_path / "plain")
    assert status == 0 and not (output / "boxes").exists()
    assert "max_boxes=-1" in predict("detection", "--prediction.max_boxes=-1")[3]


def test_the_photos_are_never_overwritten(predict, tmp_path) -> None:
    inside = photo(tmp_path / "photos" / "labels" / "a.png")
    before = inside.read_bytes()
    status, _, _, complained = predict("segmentation", output=tmp_path / "photos")
    assert status == 2 and "choose another output" in complained
    assert inside.read_bytes() == before
    (tmp_path / "file").touch()
    status, _, _, complained = predict("segmentation", output=tmp_path / "file")
    assert status == 2 and "is a file" in complained


@pytest.mark.parametrize("label_dir", ["labels", "labels/{split}", "{split}/labels"])
def test_label_maps_of_the_data_set_are_never_overwritten(predict, tmp_path, label_dir) -> None:
    photo(tmp_path / "photos" / "a.png")
    truth = photo(tmp_path / label_dir.replace("{split}", "val") / "a.png")
    before = truth.read_bytes()
    output = tmp_path / "val" if label_dir == "{split}/labels" else tmp_path
    options = [f"--data.root={tmp_path}", "--data.image_dir=photos", f"--data.label_dir={label_dir}"]
    status, _, _, complained = predict("segmentation", *options, output=output)
    assert status == 2 and "label maps of the data set" in complained
    assert truth.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX only")
@pytest.mark.parametrize("task", ["classification", "detection"])
def test_names_that_are_no_text(task, predict, tmp_path) -> None:
    source = photo(tmp_path / "photos" / "a.png")
    os.link(source, os.fsencode(source.parent) + b"/\xff\xe4.png")
    photo(tmp_path / "photos" / "äλ中.png")
    long = photo(tmp_path / "photos" / f"{'x' * 251}.png")
    os.link(source, long.with_suffix(".jpg"))
    status, output, _, complained = predict(task)
    assert status == 0, complained
    if task == "classification":
        names = [Path(row[0]).name for row in read_csv(output / "predictions.csv")[1:]]
        assert {"a.png", "äλ中.png", "\\udcff\\udce4.png"} < set(names)
    else:
        assert len(list((output / "boxes").iterdir())) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["https://a.example/a.jpg"], "https://a.example/a.jpg: an address, not a file or folder; download"),
        (["--data.predict_root=https://a.example/a.jpg"], "'https://a.example/a.jpg': an address"),
        (["missing.jpg"], "missing.jpg: no such file or folder; predict takes an image, or a folder"),
        (["photos/missing"], "photos/missing: no such file or folder"),
        (["a.jpg", "b.jpg"], "a.jpg, b.jpg: predict takes one image or one folder"),
        (["last.ckpt", "a.jpg"], "'last.ckpt' is no option; a checkpoint is given as --ckpt_path=last.ckpt"),
        (["a.jpg", "last.onnx"], "'last.onnx' is no option; an exported file is given as --model=last.onnx"),
        (["empty"], "holds no image (it is empty); give an image file, or a folder"),
        (["text"], "holds no image (found: a.txt)"),
        (["model.lr=3"], "options begin with two dashes"),
    ],
)
def test_what_is_no_image_is_one_line(words, message, checkpoints, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    assert main(["predict", f"--ckpt_path={checkpoints['classification']}", *QUIET, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_file_that_is_no_image(predict, tmp_path) -> None:
    (tmp_path / "photos").write_text("no image")
    status, _, _, error = predict("classification")
    assert status == 1 and "cannot be decoded" in error and "the others are written" not in error
