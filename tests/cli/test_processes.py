"""If these failed, several processes would report, write or keep something else than one.

Every command runs as a user would start it: Lightning starts the further processes by the same command line.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

# each command starts Python up to three times; on a busy machine that is a minute
pytestmark = [pytest.mark.processes, pytest.mark.timeout(1800)]

TASKS = ("classification", "segmentation", "detection")
COUNTS = (1, 2, 7)
SIZE = 64


def _save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def _data(root: Path, task: str, split: str, count: int) -> None:
    """A split of noise with two classes."""
    rng = np.random.default_rng(count)
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": 3, "name": "car"}, {"id": 8, "name": "=dog"}]
    for number in range(count):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        if task == "classification":
            _save(root / split / ("car", "dog")[number % 2] / f"{number}.png", pixels)
        elif task == "segmentation":
            _save(root / "leftImg8bit" / split / "town" / f"{number}_leftImg8bit.png", pixels)
            labels = rng.choice([7, 8, 0], (SIZE, SIZE)).astype(np.uint8)
            _save(root / "gtFine" / split / "town" / f"{number}_gtFine_labelIds.png", labels)
        else:
            image_id = 40 - 3 * number  # not in the order of the file
            _save(root / split / f"{number}.png", pixels)
            coco["images"].append({"id": image_id, "file_name": f"{number}.png", "height": SIZE, "width": SIZE})
            for category in (3, 8):
                x, y, w, h = (float(side) for side in rng.integers(4, 30, 4))
                coco["annotations"].append({
                    "id": len(coco["annotations"]), "image_id": image_id, "category_id": category,
                    "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
                })  # fmt: skip
    if task == "detection":
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coco))
    if task == "classification":
        (root / split / "dog").mkdir(parents=True, exist_ok=True)


class Sets:
    """Data of one task: seven training images, and validation splits of 1, 2 and 7."""

    def __init__(self, root: Path, task: str) -> None:
        self.root, self.task = root, task
        _data(root, task, "train", 7)
        for count in COUNTS:
            _data(root, task, f"val{count}", count)

    def options(self, count: int = 2) -> list[str]:
        """Options of every command."""
        data = {
            "classification": ["--data.image_size=64"],
            "segmentation": ["--data.crop_size=[64,64]"],
            "detection": [],
        }
        return [
            *(f"--task={self.task}", f"--data.root={self.root}", "--data.train_split=train", *data[self.task]),
            *(f"--data.val_split=val{count}", "--data.batch_size=1", "--data.num_workers=0"),
            *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
        ]

    def fit(self) -> list[str]:
        """A run of two epochs."""
        # scores of an untrained detector are about 0.01
        more = {"detection": ["--model.score_threshold=0.001", "--model.detections_per_image=5"]}.get(self.task, [])
        return [
            *("fit", *self.options(), "--model.backbone=mobilenetv2_035", *more, "--trainer.max_epochs=2"),
            *("--trainer.log_every_n_steps=1", "--trainer.enable_model_summary=false"),
        ]


def start(folder: Path, arguments: list[str], processes: int = 1) -> subprocess.Popen[str]:
    """``dyvision`` with these arguments, leader of a process group."""
    folder.mkdir(parents=True, exist_ok=True)
    several = [f"--trainer.devices={processes}", "--trainer.strategy=ddp"] if processes > 1 else ["--trainer.devices=1"]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "dyvision", *arguments, *several],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run(folder: Path, arguments: list[str], processes: int = 1, status: int = 0) -> str:
    """What the command printed."""
    process = start(folder, arguments, processes)
    try:
        text, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        pytest.fail(f"no end: {text}")
    assert process.returncode == status, text
    return text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Data and the checkpoint of a run in one process, per task."""
    made: dict[str, tuple[Sets, Path]] = {}

    def get(task: str) -> tuple[Sets, Path]:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            sets = Sets(folder / "data", task)
            run(folder, sets.fit())
            made[task] = sets, folder / "runs" / task / "version_0" / "checkpoints" / "last.ckpt"
        return made[task]

    return get


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("task", TASKS)
def test_evaluation_and_predictions_are_those_of_one_process(
    task: str, count: int, trained: Any, tmp_path: Path
) -> None:
    sets, checkpoint = trained(task)
    common = [*sets.options(count), f"--ckpt_path={checkpoint}"]
    tables, results, predictions, numbers = [], [], [], []
    for processes in (1, 2, 3):
        folder = tmp_path / str(processes)
        text = run(folder, ["validate", *common, "--json=numbers.json"], processes)
        numbers.append(json.loads((folder / "numbers.json").read_text(encoding="utf-8")))
        assert numbers[-1]["processes"] == processes
        tables.append([line for line in text.splitlines() if "val/" in line or "│" in line])
        assert text.count("results: ") == (1 if (folder / "runs" / task / "validate_0").exists() else 0), text
        results.append(_files(folder / "runs") if (folder / "runs").exists() else {})
        run(folder, ["predict", *common], processes)
        predictions.append(_files(folder / "predictions"))
    assert tables[0] and tables[0] == tables[1] == tables[2]
    assert results[0] == results[1] == results[2]
    for other in numbers[1:]:
        assert other["metrics"] == pytest.approx(numbers[0]["metrics"], rel=1e-5, nan_ok=True)
        assert other["per_class"].keys() == numbers[0]["per_class"].keys()
    assert predictions[0] == predictions[1] == predictions[2]
    if task == "detection":
        assert list(results[0]) == [f"{task}/validate_0/coco_results_val_bbox.json"]
        assert len(json.loads(results[0][f"{task}/validate_0/coco_results_val_bbox.json"])) >= count
        assert [one["id"] for one in json.loads(predictions[0]["images.json"])] == [40 - 3 * k for k in range(count)]
    if task == "classification":
        assert len(predictions[0]["predictions.csv"].splitlines()) == 1 + count
    if task == "segmentation":
        assert len([name for name in predictions[0] if name.startswith("labels")]) == count


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("task", TASKS)
def test_a_broken_photo_is_listed_once(task: str, processes: int, trained: Any, tmp_path: Path) -> None:
    sets, checkpoint = trained(task)
    photos = tmp_path / "photos"
    for number in range(4):
        _save(photos / f"{number}.png", np.full((SIZE, SIZE, 3), 60 * number, np.uint8))
    (photos / "0.png").write_bytes(b"no image")  # the one that fills up the last round
    predict = ["predict", *sets.options(), f"--ckpt_path={checkpoint}", f"--data.predict_root={photos}"]
    run(tmp_path / "one", predict, status=1)
    text = run(tmp_path / "several", predict, processes, status=1)
    assert text.count("dyvision: error:") == 1 and "no predictions for 1 image," in text
    assert _files(tmp_path / "several" / "predictions") == _files(tmp_path / "one" / "predictions")
    with (tmp_path / "several" / "predictions" / "failed.csv").open(newline="") as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == ["0.png"]


def _log(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_has_one_folder_and_goes_on(task: str, processes: int, tmp_path: Path) -> None:
    sets = Sets(tmp_path / "data", task)
    text = run(tmp_path, sets.fit(), processes)
    folder = tmp_path / "runs" / task / "version_0"
    last = folder / "checkpoints" / "last.ckpt"
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"], text
    assert text.count("next: dyvision validate") == 1
    done = torch.load(last, weights_only=True)["global_step"]
    assert done == 2 * -(-7 // processes) and _log(folder) == list(range(done))
    text = run(tmp_path, [*sets.fit(), "--trainer.max_epochs=3", "--ckpt_path=last"], processes)
    assert text.count("goes on after") == 1
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"], text
    assert torch.load(last, weights_only=True)["global_step"] == done // 2 * 3
    assert _log(folder) == list(range(done // 2 * 3))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [2, 3])
def test_a_stopped_run_saves_and_goes_on(signum: int, processes: int, tmp_path: Path) -> None:
    sets = Sets(tmp_path / "data", "classification")
    arguments = [*sets.fit(), "--trainer.max_epochs=400", "--last.every_n_train_steps=1"]
    last = tmp_path / "runs" / "classification" / "version_0" / "checkpoints" / "last.ckpt"
    process = start(tmp_path, arguments, processes)
    deadline = time.monotonic() + 300
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if signum == signal.SIGINT:  # a terminal sends it to all processes, a scheduler's SIGTERM comes to the first
        os.killpg(process.pid, signum)
    else:
        os.kill(process.pid, signum)
    try:
        text, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signum, text
    assert text.count("to go on: dyvision ") == 1 and text.count("stopping after this step") == 1, text
    step = torch.load(last, weights_only=True)["global_step"]
    (line,) = [line for line in text.splitlines() if line.startswith("to go on: dyvision ")]
    run(tmp_path, [*shlex.split(line)[4:], f"--trainer.max_steps={step + 2}"], processes)
    assert torch.load(last, weights_only=True)["global_step"] == step + 2


def test_an_error_is_told_once(trained: Any, tmp_path: Path) -> None:
    """By the first process where all of them see it, and by another where only that one does."""
    sets, checkpoint = trained("classification")
    validate = ["validate", *sets.options(7), f"--ckpt_path={checkpoint}"]
    text = run(tmp_path, [*validate, "--data.val_split=nowhere"], 2, status=2)
    assert text.count("dyvision: error:") == 1 and "nowhere" in text
    broken = tmp_path / "data"
    _data(broken, "classification", "train", 2)
    _data(broken, "classification", "val7", 2)
    (broken / "val7" / "dog" / "1.png").write_bytes(b"no image")  # the second process reads it
    process = start(tmp_path, [*validate, f"--data.root={broken}"], 2)
    text, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert text.count("dyvision: error:") >= 1 and "1.png" in text


LAYER = """
from dyvision.layers import get_layer, register_layer

@register_layer("own_se")
class Own(get_layer("se")):
    pass
"""


def test_every_process_has_the_layer_of_the_users_own_file(tmp_path: Path) -> None:
    sets = Sets(tmp_path / "data", "classification")
    (tmp_path / "my_layers.py").write_text(LAYER, encoding="utf-8")
    run(tmp_path, [*sets.fit(), "--model.layer=own_se", "--import=my_layers"], 2)
    last = tmp_path / "runs" / "classification" / "version_0" / "checkpoints" / "last.ckpt"
    (record,) = torch.load(last, weights_only=True)["plugins"]
    assert record == {"kind": "layer", "name": "own_se", "module": "my_layers", "import": "my_layers"}
    common = [*sets.options(), f"--ckpt_path={last}"]
    text = run(tmp_path, ["predict", *common], 2, status=2)
    assert "--import my_layers" in text
    run(tmp_path, ["validate", *common, "--import=my_layers.py", "--json=numbers.json"], 2)
    assert json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))["processes"] == 2
    run(tmp_path, ["predict", *common, "--import=my_layers"], 2)
    assert len((tmp_path / "predictions" / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2
