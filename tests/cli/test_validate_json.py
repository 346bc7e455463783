"""If these fail, the file of an evaluation says other numbers than the table, or is missing after the work."""

from __future__ import annotations

import json

import pytest

import dyvision
from dyvision.cli import main
from dyvision.tasks import ClassificationTask

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1"]


@pytest.mark.parametrize(
    ("task", "metric", "each"),
    [
        ("classification", "top1", "accuracy"),
        ("segmentation", "mIoU", "IoU"),
        ("detection", "box_AP", "box_AP"),
    ],
)
def test_numbers_of_the_set_and_of_classes(task, metric, each, trained, tmp_path, capsys) -> None:
    checkpoint, file = trained(task, "static"), tmp_path / "out" / "numbers.json"
    command = ["validate", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'results'}", f"--json={file}"]
    assert main([*command, *QUIET]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    found = json.loads(file.read_text(encoding="utf-8"))
    value = found["metrics"][metric]
    assert ("-" if value is None else f"{value:.4f}") in printed
    assert len(found["per_class"]) >= 5 and any(each in values for values in found["per_class"].values())
    expected = {"task": task, "stage": "val", "backbone": "mobilenetv2_035", "layer": "static", "processes": 1}
    assert {name: found[name] for name in expected} == expected
    assert found["checkpoint"] == str(checkpoint.resolve()) and found["seconds"] > 0
    assert found["versions"]["dyvision"] == dyvision.__version__
    assert found["data"]["root"] and found["model"]["num_classes"] == len(found["per_class"])


def test_test_has_it_and_counts_the_parameters(trained, tmp_path, capsys) -> None:
    checkpoint, file = trained("classification", "dyconv"), tmp_path / "numbers.json"
    command = ["test", f"--ckpt_path={checkpoint}", f"--output={tmp_path}", f"--json={file}", *QUIET[:2]]
    assert main([*command, "--trainer.limit_test_batches=1"]) == 0, capsys.readouterr().err
    found = json.loads(file.read_text(encoding="utf-8"))
    task = ClassificationTask.load_from_checkpoint(checkpoint)
    assert (found["stage"], found["layer"]) == ("test", "dyconv")
    assert found["parameters"] == sum(parameter.numel() for parameter in task.network.parameters())


def test_a_place_that_cannot_be_written_is_told_before_the_run(trained, tmp_path, capsys) -> None:
    file = tmp_path / "file"
    file.write_text("")
    command = ["validate", f"--ckpt_path={trained('classification', 'static')}", f"--output={tmp_path / 'out'}"]
    assert main([*command, f"--json={file}/numbers.json", *QUIET]) == 2
    out, err = capsys.readouterr()
    assert "--json" in err and "is a file" in err and "top1" not in out


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_other_commands_have_none(command, trained, tmp_path, capsys) -> None:
    file = tmp_path / "x.json"
    assert main([command, f"--ckpt_path={trained('classification', 'static')}", f"--json={file}"]) == 2
    assert "validate --json" in capsys.readouterr().err and not file.exists()
