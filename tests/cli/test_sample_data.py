"""If these failed, a quickstart that was stopped, or started twice, would train on half of the sample data."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dyvision.cli import main
from dyvision.cli._sample_data import ensure_sample_data
from dyvision.data import write_sample_data
from dyvision.tasks import ClassificationTask

_few = partial(write_sample_data, train_scenes=3, val_scenes=2, train_crops=6, val_crops=5, size=64, crop_size=32)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyvision.data.write_sample_data", _few)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_at_once_draw_one_data_set(few: None, tmp_path: Path) -> None:
    whole = _files(_few(tmp_path / "reference", seed=0))
    root = tmp_path / "quickstart" / "data"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ensure_sample_data, [root, root]))
    assert _files(root) == whole
    assert [path.name for path in root.parent.iterdir()] == ["data"]  # and nothing beside it


def test_a_second_run_takes_what_is_there(few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    ensure_sample_data(root)
    before = _files(root)
    own = root / "coco" / "mine.txt"
    own.write_text("mine")

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("drawn again")

    with monkeypatch.context() as patch:
        patch.setattr("dyvision.data.write_sample_data", refuse)
        ensure_sample_data(root)
    for path in sorted((root / "imagenet").rglob("*"), reverse=True):  # one of the formats is lost
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "imagenet").rmdir()
    ensure_sample_data(root)
    assert _files(root) == {**before, "coco/mine.txt": b"mine"}


def test_what_is_interrupted_leaves_nothing(few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(root: Path, seed: int) -> None:
        (root / "imagenet" / "train").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dyvision.data.write_sample_data", stop)
        with pytest.raises(KeyboardInterrupt):
            ensure_sample_data(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    ensure_sample_data(tmp_path / "data")
    assert len(_files(tmp_path / "data")) > 20


def test_a_stopped_quickstart_has_the_status_of_the_signal(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = ClassificationTask.training_step

    def stopped(self: Any, *rest: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *rest)

    monkeypatch.setattr(ClassificationTask, "training_step", stopped)
    with pytest.raises(SystemExit) as end:
        main(["quickstart", f"--output={tmp_path / 'here'}", "--backbone=mobilenetv2_035"])
    assert end.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr()
    assert "SIGTERM: stopping after this step" in said.out and "Traceback" not in said.err
