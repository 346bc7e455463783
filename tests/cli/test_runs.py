"""Runs as users start, stop and continue them. If these fail, somebody loses a run, or files that are another's."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from dyvision.cli import main

FORMATS = {"classification": "imagenet", "segmentation": "cityscapes", "detection": "coco"}
SIZES = {"classification": ["--data.image_size=32"], "segmentation": ["--data.crop_size=[64,64]"], "detection": []}


def arguments(sample_data: Path, *options: str, task: str = "classification") -> list[str]:
    """A run of 3 epochs of 4 steps each, with a schedule."""
    return [
        *("fit", f"--config={task}/quickstart.yaml", "--sample_data=null", *SIZES[task]),
        *(f"--data.root={sample_data / FORMATS[task]}", "--data.batch_size=2", "--data.eval_batch_size=4"),
        *("--model.backbone=mobilenetv2_035", "--model.layer=static", "--model.drop_path_rate=0.1"),
        *("--model.lr_schedule=cosine", "--model.warmup_steps=2", "--trainer.accelerator=cpu"),
        *("--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1", "--trainer.max_epochs=3"),
        *("--trainer.check_val_every_n_epoch=1", "--trainer.log_every_n_steps=1"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *options),
    ]


def version(folder: Path, number: int = 0, task: str = "classification") -> Path:
    return folder / "runs" / task / f"version_{number}"


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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


class Fail(Callback):
    """An error in the middle of a run: in a step, or where the next batch is read."""

    step, inside = 6, False

    def on_before_zero_grad(self, trainer: Any, *rest: Any) -> None:
        if self.inside and trainer.global_step == self.step:
            raise ValueError("broken in a step")

    def on_train_batch_start(self, trainer: Any, *rest: Any) -> None:
        if not self.inside and trainer.global_step == self.step:
            raise ValueError("broken between two steps")


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


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder of the run to be tested."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def stop(patch: pytest.MonkeyPatch, step: int, signum: int = signal.SIGTERM, validating: bool = False) -> None:
    """Make the next run receive a signal."""
    patch.setattr("dyvision.cli._run.LogPosition", _with(SendSignal))
    for name, value in {"step": step, "signum": int(signum), "validating": validating}.items():
        patch.setattr(SendSignal, name, value)


def _with(added: type[Callback]) -> type[Callback]:
    from dyvision.tasks.metrics_log import LogPosition

    # a run has one of these; the test's callback does its work beside it
    return type("LogPosition", (added, LogPosition), {})


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
    monkeypatch.setattr("dyvision.cli._run.LogPosition", _with(Fail))
    assert main(arguments(sample_data)) == 2
    captured = capsys.readouterr()
    last = version(place) / "checkpoints" / "last.ckpt"
    assert "to go on: dyvision fit" in captured.out and "broken between two steps" in captured.err
    assert load(last)["global_step"] == 6  # all that was done
    monkeypatch.setattr(Fail, "inside", True)
    assert main(arguments(sample_data)) == 2
    # half a step is nothing to go on from: that of the end of the first epoch stays
    assert load(version(place, 1) / "checkpoints" / "last.ckpt")["global_step"] == 4


def test_steps_and_the_end(sample_data, place) -> None:
    """``last.ckpt`` comes before the first validation, and is the end of the run; the end is validated."""
    options = ["--trainer.max_steps=6", "--trainer.check_val_every_n_epoch=3", "--checkpoint.every_n_train_steps=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dyvision.cli._run.LogPosition", _with(Fail))
        patch.setattr(Fail, "inside", True)
        patch.setattr(Fail, "step", 2)
        assert main(arguments(sample_data, *options)) == 2
    assert load(version(place) / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert main(arguments(sample_data, *options)) == 0
    folder = version(place, 1)
    assert load(folder / "checkpoints" / "last.ckpt")["global_step"] == 6
    best = [path for path in (folder / "checkpoints").iterdir() if path.name != "last.ckpt"]
    assert [load(path)["global_step"] for path in best] == [6]
    assert [int(row["step"]) for row in rows(folder) if row["val/top1"]] == [5]


def test_a_time_limit_says_how_to_go_on(sample_data, place, capsys) -> None:
    assert main(arguments(sample_data, "--trainer.max_epochs=200", "--trainer.max_time=00:00:00:01")) == 0
    out = capsys.readouterr().out
    assert "stopped by trainer.max_time" in out and "to go on: dyvision fit" in out
    step = load(version(place) / "checkpoints" / "last.ckpt")["global_step"]
    assert rows(version(place))[-1]["val/top1"] and int(rows(version(place))[-1]["step"]) == step - 1


def test_last_finds_the_newest_run_or_says_what_it_looked_for(sample_data, place, capsys) -> None:
    assert main([*arguments(sample_data), "--ckpt_path=last"]) == 2
    assert "runs/classification/version_*" in capsys.readouterr().err
    assert not (place / "runs").exists() or not list((place / "runs").rglob("version_*"))
    assert main(arguments(sample_data, "--trainer.max_epochs=1")) == 0
    out = capsys.readouterr().out
    assert "best val/top1" in out and "next: dyvision validate --ckpt_path runs/classification/version_0" in out
    assert main([*arguments(sample_data, "--trainer.max_epochs=2"), "--ckpt_path=last"]) == 0
    assert load(version(place) / "checkpoints" / "last.ckpt")["global_step"] == 8
    capsys.readouterr()
    assert main([*arguments(sample_data, "--trainer.max_epochs=2"), "--ckpt_path=last"]) == 0
    assert "nothing to train" in capsys.readouterr().out
    assert main([*arguments(sample_data, "--model.layer=dyconv"), "--ckpt_path=last"]) == 2
    assert "other configurations" in capsys.readouterr().err
    assert main(["validate", "--task=classification", "--ckpt_path=best", "--trainer.accelerator=cpu"]) == 0


@pytest.mark.parametrize("named", [True, False])
def test_last_without_a_task_is_the_newest_run_of_any(named, sample_data, place, capsys) -> None:
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    tasks = ("segmentation", "classification") if named else ("classification",)
    for task in tasks:
        head = ["--model.head=lraspp"] if task == "segmentation" else []
        assert main(arguments(sample_data, *short, *head, task=task)) == 0
    capsys.readouterr()
    for command in ("validate", "test", "predict"):
        assert main([command, "--ckpt_path=last", "--trainer.accelerator=cpu", "--data.num_workers=0"]) == 0
        out = capsys.readouterr().out
        assert "runs/classification/version_0/checkpoints/last.ckpt, of the newest run" in out
        assert ("runs of segmentation, too" in out) == named
    assert main(["validate", "--ckpt_path=best", "--trainer.accelerator=cpu"]) == 0
    assert main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"]) == 0
    out = capsys.readouterr().out
    assert "at epoch 1: " in out and "goes on after epoch 1, step 1 of" in out and "end: epoch 2, step 2" in out
    if named:
        assert main(["validate", "--ckpt_path=last", "--task=segmentation", "--trainer.accelerator=cpu"]) == 0
        assert "of the newest run" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["last", "best"])
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "report"])
def test_without_a_run_the_line_says_what_would_help(command, kind, place, capsys) -> None:
    words = ["report", "routing", kind] if command == "report" else [command, f"--ckpt_path={kind}"]
    assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--ckpt_path {kind}: looked for runs in runs/*/version_*" in line and "found none" in line
    assert ("leave --ckpt_path out" in line) == (command == "fit")
    assert ("dyvision fit" in line) == (command != "fit")


def test_an_end_inside_an_epoch_names_that_epoch(sample_data, place, capsys) -> None:
    assert main(arguments(sample_data, "--trainer.max_steps=6")) == 0
    assert "end: epoch 2, step 6" in capsys.readouterr().out
    end = version(place) / "checkpoints" / "last.ckpt"
    assert main([*arguments(sample_data, "--trainer.max_steps=7"), f"--ckpt_path={end}"]) == 0
    assert "goes on after step 6, in epoch 2, of" in capsys.readouterr().out


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


def test_loggers_by_name_write_into_the_folder_of_the_run(sample_data, place) -> None:
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    for number, (name, files) in enumerate((("tensorboard", "events*"), ("CSVLogger", "metrics.csv"))):
        assert main(arguments(sample_data, *short, "--trainer.logger", name)) == 0
        folder = version(place, number)
        assert list(folder.glob(files))
        assert len([*folder.glob("events*"), *folder.glob("metrics.csv")]) == 1
        kept = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["logger"]
        assert kept == [{"tensorboard": "TensorBoardLogger"}.get(name, name)]
    assert not (place / "lightning_logs").exists()


def test_nothing_to_train_leaves_no_folder(sample_data, place, capsys) -> None:
    assert main(arguments(sample_data, "--trainer.max_epochs=1")) == 0
    best = next(path for path in (version(place) / "checkpoints").glob("*.ckpt") if path.name != "last.ckpt")
    for options in ([f"--ckpt_path={best}"], ["--ckpt_path=last", "--model.lr=0.5"]):
        assert main([*arguments(sample_data, "--trainer.max_epochs=1"), *options]) == 0
        assert "nothing to train" in capsys.readouterr().out
        assert [path.name for path in version(place).parent.iterdir()] == ["version_0"]


def test_another_training_gets_another_folder_with_the_log_so_far(sample_data, place) -> None:
    assert main(arguments(sample_data, "--trainer.max_epochs=2")) == 0
    before = {path: path.read_bytes() for path in version(place).rglob("*") if path.is_file()}
    changed = arguments(sample_data, "--model.lr=0.0001", f"--ckpt_path={version(place) / 'checkpoints' / 'last.ckpt'}")
    assert main(changed) == 0
    assert {path: path.read_bytes() for path in version(place).rglob("*") if path.is_file()} == before
    joined = rows(version(place, 1))
    assert [int(row["step"]) for row in joined if row["train/loss"]] == list(range(12))
    assert joined[: len(rows(version(place)))] == rows(version(place))


def test_nothing_is_written_that_is_not_the_runs(sample_data, place) -> None:
    (place / "config.yaml").write_text("mine")
    (place / "checkpoints").mkdir()
    (place / "checkpoints" / "last.ckpt").write_text("mine")
    assert main(arguments(sample_data, "--trainer.fast_dev_run=true")) == 0
    assert not (place / "runs").exists()
    assert main(arguments(sample_data, "--trainer.logger=false", "--trainer.max_epochs=1")) == 0
    assert main(arguments(sample_data, "--trainer.enable_checkpointing=false", "--trainer.max_epochs=1")) == 0
    assert sorted(path.name for path in place.iterdir()) == ["checkpoints", "config.yaml", "runs"]
    assert (place / "config.yaml").read_text() == (place / "checkpoints" / "last.ckpt").read_text() == "mine"
    assert (version(place) / "checkpoints" / "last.ckpt").is_file()
    assert not (version(place, 1) / "checkpoints").exists()
    assert yaml.safe_load((version(place) / "config.yaml").read_text())["ckpt_path"] is None
    given = place / "mine"
    given.mkdir()
    (given / "last.ckpt").write_text("mine")
    assert main(arguments(sample_data, f"--checkpoint.dirpath={given}", "--trainer.max_epochs=1")) == 0
    assert (given / "last.ckpt").read_text() == "mine" and (given / "last-v1.ckpt").is_file()


def test_evaluation_of_random_weights_is_refused(sample_data, place, capsys) -> None:
    for command in ("validate", "test", "predict"):
        data = f"--data.root={sample_data / 'cityscapes'}"
        assert main([command, "--task=segmentation", data, "--model.num_classes=19"]) == 2
        assert "--ckpt_path" in capsys.readouterr().err
    assert list(place.iterdir()) == []


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
