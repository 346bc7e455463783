"""Runs that are stopped and go on. If these fail, somebody loses a run, or gets other weights than without a stop."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from dyvision.cli import main
from tests.cli.small_runs import FORMATS, Fail, arguments, load, rows, version, with_callback


def assert_same(one: Any, other: Any) -> None:
    if isinstance(other, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(other, dict):
        assert one.keys() == other.keys()
        for name in other:
            assert_same(one[name], other[name])
    elif isinstance(other, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def assert_same_end(folder: Path, unbroken: Path) -> None:
    """Weights, optimiser, schedule, average, random numbers and log are those of the run that was not stopped."""
    one, other = load(folder / "checkpoints" / "last.ckpt"), load(unbroken / "checkpoints" / "last.ckpt")
    for name in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers", "random_state"):
        assert_same(one[name], other[name])
    assert_same(one.get("ema"), other.get("ema"))
    assert rows(folder) == rows(unbroken)


class SendSignal(Callback):
    """Sends a signal to its own process in one training step, or in the validation after it."""

    step, signum, validating = 6, int(signal.SIGTERM), False

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.step and not self.validating:
            os.kill(os.getpid(), self.signum)

    def on_validation_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.step and self.validating:
            os.kill(os.getpid(), self.signum)


@pytest.fixture
def unbroken(sample_data, tmp_path, monkeypatch) -> Any:
    """Trains without a stop, in a folder of its own; returns that of the run."""

    def run(*options: str, task: str = "classification") -> Path:
        folder = tmp_path / "unbroken"
        folder.mkdir()
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            assert main(arguments(sample_data, *options, task=task)) == 0
        return version(folder, task=task)

    return run


def stop(patch: pytest.MonkeyPatch, step: int, signum: int = signal.SIGTERM, validating: bool = False) -> None:
    """Make the next run receive a signal."""
    patch.setattr("dyvision.cli._run.LogPosition", with_callback(SendSignal))
    for name, value in {"step": step, "signum": int(signum), "validating": validating}.items():
        patch.setattr(SendSignal, name, value)


@pytest.mark.parametrize(
    ("step", "validating", "options"),
    [(2, False, ()), (4, False, ()), (4, True, ()), (7, False, ("--model.ema_decay=0.9",))],
    ids=["inside", "end of an epoch", "validation", "EMA"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    step, validating, options, sample_data, place, unbroken, capsys
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, step, validating=validating)
        with pytest.raises(SystemExit) as stopped:
            main(arguments(sample_data, *options))
    assert stopped.value.code == 143
    assert load(version(place) / "checkpoints" / "last.ckpt")["global_step"] == step
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to go on: dyvision ")]
    assert len(said) == 1
    assert main(shlex.split(said[0])[4:]) == 0
    assert f"step {step}" in capsys.readouterr().out.split("goes on after")[1].split(" of ")[0]
    assert not version(place, 1).exists()
    assert_same_end(version(place), unbroken(*options))


def test_only_the_checkpoint_is_needed_to_go_on(sample_data, place, unbroken) -> None:
    options = ("--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=0.5")
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, 3, signal.SIGINT)
        with pytest.raises(SystemExit) as stopped:
            main(arguments(sample_data, *options))
    assert stopped.value.code == 130
    last = version(place) / "checkpoints" / "last.ckpt"
    assert load(last)["global_step"] == 3
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    assert main(["fit", f"--ckpt_path={last}", *quiet]) == 0
    assert_same_end(version(place), unbroken(*options))


def test_after_an_error(sample_data, place, monkeypatch, capsys) -> None:
    monkeypatch.setattr("dyvision.cli._run.LogPosition", with_callback(Fail))
    assert main(arguments(sample_data)) == 2
    captured = capsys.readouterr()
    last = version(place) / "checkpoints" / "last.ckpt"
    assert "to go on: dyvision fit" in captured.out and "broken between two steps" in captured.err
    assert load(last)["global_step"] == 6  # all that was done
    monkeypatch.setattr(Fail, "inside", True)
    assert main(arguments(sample_data)) == 2
    # half a step is nothing to go on from: that of the end of the first epoch stays
    assert load(version(place, 1) / "checkpoints" / "last.ckpt")["global_step"] == 4


@pytest.mark.parametrize("steps", [5])
def test_a_run_goes_on_with_epochs_of_another_length_to_the_end_of_its_schedule(steps, sample_data, place) -> None:
    """Two epochs of 4 steps, ended after ``steps``, go on with 2 steps an epoch: the rate ends at 0."""
    short = ["--trainer.max_epochs=2", f"--trainer.max_steps={steps}"]
    assert main(arguments(sample_data, *short, "--trainer.limit_val_batches=0")) == 0
    end = version(place) / "checkpoints" / "last.ckpt"
    more = ["--trainer.max_epochs=4", "--trainer.max_steps=-1", "--trainer.limit_train_batches=2"]
    assert main([*arguments(sample_data, *more, "--data.batch_size=4"), f"--ckpt_path={end}"]) == 0
    last = load(max(place.glob("runs/*/*/checkpoints/last.ckpt"), key=os.path.getmtime))
    assert last["global_step"] > steps
    assert last["lr_schedulers"][0]["_last_lr"] == pytest.approx([0.0] * len(last["lr_schedulers"][0]["_last_lr"]))


def test_another_training_gets_another_folder_with_the_log_so_far(sample_data, place) -> None:
    assert main(arguments(sample_data, "--trainer.max_epochs=2")) == 0
    before = {path: path.read_bytes() for path in version(place).rglob("*") if path.is_file()}
    changed = arguments(sample_data, "--model.lr=0.0001", f"--ckpt_path={version(place) / 'checkpoints' / 'last.ckpt'}")
    assert main(changed) == 0
    assert {path: path.read_bytes() for path in version(place).rglob("*") if path.is_file()} == before
    joined = rows(version(place, 1))
    assert [int(row["step"]) for row in joined if row["train/loss"]] == list(range(12))
    assert joined[: len(rows(version(place)))] == rows(version(place))


@pytest.mark.slow
@pytest.mark.parametrize("task", FORMATS)
@pytest.mark.parametrize(
    ("workers", "options"),
    [(0, ()), (2, ("--model.ema_decay=0.9", "--trainer.accumulate_grad_batches=2"))],
    ids=["0 workers", "2 workers, EMA, accumulation"],
)
def test_a_killed_process_goes_on(task, workers, options, sample_data, place, unbroken) -> None:
    every = ("--last.every_n_train_steps=1", f"--data.num_workers={workers}", *options)
    code = "import sys; from dyvision.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments(sample_data, *every, task=task)]
    folder = version(place, task=task)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True) as run:
        seen: set[int] = set()
        while run.poll() is None and len(seen) < 3:
            if (folder / "checkpoints" / "last.ckpt").is_file():
                seen.add((folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns)
        os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert main(["fit", f"--config={folder / 'config.yaml'}", "--ckpt_path=last"]) == 0
    assert_same_end(folder, unbroken(*every, task=task))
