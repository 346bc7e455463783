"""Runs as users start, stop and continue them. If these fail, somebody loses a run, or files that are another's."""

from __future__ import annotations

import pytest
import yaml

from dyvision.cli import main
from tests.cli.small_runs import Fail, arguments, load, rows, version, with_callback


def test_steps_and_the_end(sample_data, place) -> None:
    """``last.ckpt`` comes before the first validation, and is the end of the run; the end is validated."""
    options = ["--trainer.max_steps=6", "--trainer.check_val_every_n_epoch=3", "--checkpoint.every_n_train_steps=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dyvision.cli._run.LogPosition", with_callback(Fail))
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
