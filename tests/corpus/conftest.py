"""Bad inputs, run as a user would: each has to end in one good line, with exit status 2, without a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyvision.cli import (
    main,
    trainer,  # noqa: F401  Lightning binds its log to the standard error of its import: not that of a test
)

#: the longest line that one still reads
LONGEST = 400

FIT = {
    "classification": ["--data.batch_size=2", "--data.image_size=32"],
    "segmentation": ["--model.head=lraspp", "--data.batch_size=2", "--data.crop_size=[32,32]"],
    "detection": ["--model.head=retinanet", "--model.fpn_channels=16", "--data.batch_size=2"],
}
QUICK = [
    "--trainer.accelerator=cpu",
    "--data.num_workers=0",
    "--trainer.max_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.num_sanity_val_steps=0",
    "--model.backbone=mobilenetv2_035",
]


def picture(path: Path, size: tuple[int, int] = (32, 48), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return path


def label_map(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def write_classification(root: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(3):
                picture(root / split / name / f"{number}.jpg", (32, 32), number)
    return root


def write_segmentation(root: Path) -> Path:
    for split in ("train", "val"):
        for number in range(3):
            picture(root / "leftImg8bit" / split / "town" / f"{number}_leftImg8bit.png", (32, 48), number)
            values = np.random.default_rng(number).choice(np.array([7, 11, 23], np.uint8), (32, 48))
            label_map(root / "gtFine" / split / "town" / f"{number}_gtFine_labelIds.png", values)
    return root


def coco_content() -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 32, "width": 48} for n in (1, 2, 3)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [4, 5, 20, 16], "area": 320, "iscrowd": 0,
             "segmentation": [[4, 5, 24, 5, 24, 21, 4, 21]]}
            for n in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
    }  # fmt: skip


def write_detection(root: Path) -> Path:
    for split in ("train2017", "val2017"):
        for number in (1, 2, 3):
            picture(root / split / f"{number}.jpg", seed=number)
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(coco_content()), encoding="utf-8")
    return root


WRITERS = {"classification": write_classification, "segmentation": write_segmentation, "detection": write_detection}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good data set per task, for inputs whose fault is elsewhere; nobody changes it."""
    root = tmp_path_factory.mktemp("corpus")
    for task, write in WRITERS.items():
        write(root / task)
    return root


@pytest.fixture
def own(corpus: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a task's good data set, to be spoilt."""
    return lambda task: Path(shutil.copytree(corpus / task, tmp_path / task))


@pytest.fixture(scope="session")
def checkpoints(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each task, one step old."""
    made = {}
    for task in WRITERS:
        folder = tmp_path_factory.mktemp(f"run_{task}")
        assert main(fit(task, corpus / task, folder)) == 0
        made[task] = folder / task / "version_0" / "checkpoints" / "last.ckpt"
    return made


def fit(task: str, root: Path, runs: Path) -> list[str]:
    """A command line that trains one step."""
    return ["fit", f"--task={task}", f"--data.root={root}", f"--trainer.default_root_dir={runs}", *FIT[task], *QUICK]


Refuse = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command line that cannot work and checks what it says; returns the line."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("DYVISION_DEBUG", raising=False)

    def check(arguments: list[str], *words: str) -> str:
        status = main(arguments)
        captured = capfd.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("dyvision: error:")]
        said = lines[0] if lines else captured.err[-2000:]
        assert status == 2, f"exit status {status}: {said}"
        assert len(lines) == 1, captured.err[-2000:]
        assert "Traceback" not in captured.err + captured.out, captured.err[-3000:]
        assert len(lines[0]) <= LONGEST + len("dyvision: error: "), lines[0]
        assert "DYVISION_DEBUG" not in captured.err, lines[0]  # that is for faults of ours
        missing = [word for word in words if word.lower() not in lines[0].lower()]
        assert not missing, f"{missing} not in: {lines[0]}"
        return lines[0]

    return check


@pytest.fixture
def refused_in_fit(refused: Refuse, corpus: Path, tmp_path: Path) -> Refuse:
    """Trains a task one step with wrong options, or wrong data."""

    def check(task: str, options: list[str], *words: str, root: Path | None = None) -> str:
        return refused([*fit(task, root or corpus / task, tmp_path / "runs"), *options], *words)

    return check


@pytest.fixture
def fit_one_step(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Trains a task one step with options that are fine; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    return lambda task, options: main([*fit(task, corpus / task, tmp_path / "runs"), *options])
