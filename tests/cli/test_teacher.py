"""If these fail, a run with a teacher cannot be stopped and go on, or goes on as another one."""

from __future__ import annotations

import torch

from dyvision.cli import main
from tests.cli.small_runs import arguments, load, rows, version


def test_a_run_with_a_teacher_goes_on_as_the_one_that_never_stopped(trained, sample_data, place, capsys) -> None:
    options = [f"--model.teacher={trained('classification', 'dyconv')}", "--model.teacher_weight=2"]
    length = ["--trainer.max_epochs=2", "--model.lr_schedule={name: cosine, total_steps: 8}"]
    assert main([*arguments(sample_data, *options, *length)]) == 0, capsys.readouterr().err
    logged = rows(version(place))
    assert all(float(row["train/teacher_loss"]) > 0 for row in logged if row["train/loss"])
    assert main([*arguments(sample_data, *options, length[1], "--trainer.max_epochs=1")]) == 0
    last = version(place, 1) / "checkpoints" / "last.ckpt"
    assert load(last)["teacher"] and "teacher" not in load(last)["hyper_parameters"]

    go_on = ["fit", f"--ckpt_path={last}", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"]
    capsys.readouterr()
    assert main([*go_on, "--trainer.accelerator=cpu"]) == 2
    error = capsys.readouterr().err.strip()
    assert "--model.teacher FILE" in error and "dyconv" not in error and "\n" not in error
    # the config of the run names its teacher
    config = version(place, 1) / "config.yaml"
    assert main([*go_on, f"--config={config}"]) == 0, capsys.readouterr().err
    weights = [load(version(place, number) / "checkpoints" / "last.ckpt")["state_dict"] for number in (0, 1)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    evaluate = [f"--ckpt_path={last}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert main(["validate", *evaluate, "--trainer.limit_val_batches=1"]) == 0, capsys.readouterr().err


def test_detection_names_the_tasks_that_have_it(sample_data, place, capsys) -> None:
    assert main(arguments(sample_data, "--model.teacher=x.ckpt", task="detection")) == 2
    error = capsys.readouterr().err
    assert "--model.teacher" in error and "classification and segmentation" in error
