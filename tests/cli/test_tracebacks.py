"""Once training runs, what nobody expected keeps its traceback, and what the user can mend is one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from dyvision.cli import main
from tests.cli.small_runs import FORMATS, arguments, with_callback


def raising(error: Exception, hook: str = "on_train_batch_start") -> type[Callback]:
    def fail(callback: Callback, trainer: Any, *rest: Any, **named: Any) -> None:
        if trainer.global_step == 1 or hook != "on_train_batch_start":
            raise error

    return type("Raising", (Callback,), {hook: fail})


@pytest.fixture
def short(sample_data: Path) -> list[str]:
    return [*arguments(sample_data), "--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0"]


@pytest.mark.parametrize("error", [KeyError("nobody knew"), ValueError("nobody knew"), RuntimeError("nobody knew")])
def test_what_nobody_expected_keeps_its_traceback(error, short, place, monkeypatch, capsys) -> None:
    monkeypatch.setattr("dyvision.cli._run.LogPosition", with_callback(raising(error)))
    assert main(short) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in lines and "nobody knew" in lines[-1]
    assert any("in fail" in line for line in lines) and any("fit_loop" in line for line in lines)


@pytest.mark.parametrize("hook", ["on_train_end", "on_fit_end", "teardown"])
def test_after_the_last_step_it_keeps_it_too(hook, short, place, monkeypatch, capsys) -> None:
    monkeypatch.setattr("dyvision.cli._run.LogPosition", with_callback(raising(RuntimeError("late"), hook)))
    assert main(short) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in lines and "late" in lines[-1]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), FloatingPointError("train/loss is nan"), MemoryError()]
)
def test_what_the_user_can_mend_is_one_line(error, short, place, monkeypatch, capsys) -> None:
    monkeypatch.setattr("dyvision.cli._run.LogPosition", with_callback(raising(error)))
    assert main(short) == 2
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    assert len([line for line in captured.splitlines() if line.startswith("dyvision: error:")]) == 1


def test_before_training_everything_is_one_line(short, place, monkeypatch, capsys) -> None:
    monkeypatch.setattr("dyvision.cli._run.LogPosition", with_callback(raising(KeyError("early"), "setup")))
    assert main(short) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("task", FORMATS)
def test_a_picture_that_breaks_is_one_line(task, workers, sample_data, place, capsys) -> None:
    root = place / "data"
    shutil.copytree(sample_data / FORMATS[task], root)
    for path in root.rglob("*.jpg"):
        if "train" in str(path.relative_to(root)):
            path.write_bytes(path.read_bytes()[:200])
    run = [*arguments(sample_data, task=task), f"--data.root={root}", f"--data.num_workers={workers}"]
    assert main([*run, "--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0"]) == 2
    captured = capsys.readouterr().err
    assert "Traceback" not in captured and captured.count("dyvision: error:") == 1, captured


def test_an_evaluation_keeps_it_too(short, place, monkeypatch, capsys) -> None:
    assert main(short) == 0
    monkeypatch.setattr(
        "dyvision.tasks.ClassificationTask.validation_step", lambda *given: {}["a fault of the program"]
    )
    assert main(["validate", "--ckpt_path=last", "--trainer.accelerator=cpu"]) == 2
    assert "Traceback" in capsys.readouterr().err
