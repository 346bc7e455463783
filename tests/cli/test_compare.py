"""If these fail, runs are compared by wrong figures, or one broken folder hides the others."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch

from dyvision.analysis import count_macs
from dyvision.cli import main
from dyvision.tasks import ClassificationTask
from tests.cli.small_runs import rows

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1"]


def test_runs_of_each_kind_side_by_side(trained, tmp_path, capsys) -> None:
    static, dynamic = trained("classification", "static"), trained("classification", "dyconv", "--model.lr=0.5")
    evaluated = tmp_path / "evaluated.json"
    assert main(["validate", f"--ckpt_path={static}", f"--json={evaluated}", f"--output={tmp_path}", *QUIET]) == 0
    capsys.readouterr()
    sheet, numbers = tmp_path / "runs.csv", tmp_path / "runs.json"
    folder = dynamic.parent.parent
    command = ["compare", str(static), str(folder), str(evaluated), "--input-size=64"]
    assert main([*command, f"--csv={sheet}", f"--json={numbers}"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "options that differ" in printed and "model.lr" in printed and "data.num_workers" not in printed

    found = json.loads(numbers.read_text(encoding="utf-8"))
    first, second, third = found["runs"]
    assert [run["layer"] for run in found["runs"]] == ["static", "dyconv", "static"]
    task = ClassificationTask.load_from_checkpoint(dynamic)
    assert second["parameters"] == sum(parameter.numel() for parameter in task.network.parameters())
    assert second["macs"] == count_macs(task.network, (1, 3, 64, 64)) > first["macs"]
    logged = [float(row["val/top1"]) for row in rows(folder) if row["val/top1"]]
    assert second["value"] == max(logged) and second["epochs"] == 1 and second["seconds"] > 0
    assert third["value"] == json.loads(evaluated.read_text(encoding="utf-8"))["metrics"]["top1"]
    assert found["differing"]["model.lr"][1] == 0.5 and found["differing"]["model.layer"] == [
        "static",
        "dyconv",
        "static",
    ]
    assert "model.backbone" not in found["differing"] and "trainer.max_epochs" not in found["differing"]
    with sheet.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["layer"] for row in table] == ["static", "dyconv", "static"] and table[1]["model.lr"] == "0.5"


def test_what_is_no_run_is_a_line_and_the_others_are_shown(trained, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    good = trained("classification", "static").parent.parent
    broken, begun, foreign, empty = (tmp_path / name for name in ("broken", "begun", "foreign", "empty"))
    shutil.copytree(good, broken)
    for file in (broken / "checkpoints").glob("*.ckpt"):
        file.write_bytes(file.read_bytes()[:2000])
    begun.mkdir(), empty.mkdir(), foreign.mkdir()
    (begun / "config.yaml").write_text("task: classification\n")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, foreign / "other.ckpt")
    (tmp_path / "other.json").write_text("[1]")
    given = [broken, begun, empty, foreign / "other.ckpt", tmp_path / "other.json", tmp_path / "missing.ckpt"]
    assert main(["compare", *map(str, given), str(good)]) == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("dyvision: error")]
    assert len(lines) == len(given) and all(str(path) in line for path, line in zip(given, lines, strict=True))
    assert "cut off" in lines[0] and "no checkpoint yet" in lines[1] and "no run" in lines[2]
    assert "mobilenetv2_035" in out

    assert main(["compare", str(empty)]) == 2
    assert "no run of dyvision fit" in capsys.readouterr().err


def test_a_log_that_is_half_written_is_read_as_far_as_it_goes(trained, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained("classification", "static").parent.parent, folder)
    log = folder / "metrics.csv"
    expected = max(float(row["val/top1"]) for row in rows(folder) if row["val/top1"])
    log.write_text(log.read_text() + "9,9,0.1,0.1,0.2e")
    for events in folder.glob("events.*"):
        events.write_bytes(events.read_bytes()[:-3])
    numbers = tmp_path / "runs.json"
    assert main(["compare", str(folder), f"--json={numbers}", "--input-size=32"]) == 0, capsys.readouterr().err
    assert json.loads(numbers.read_text())["runs"][0]["value"] == expected


def test_a_checkpoint_that_names_code_does_not_run_it(trained, tmp_path, capsys) -> None:
    content = torch.load(trained("classification", "static"), weights_only=True)
    content["hyper_parameters"]["optimizer"] = {"class_path": "os.system", "init_args": {"command": "touch ran"}}
    path = tmp_path / "foreign.ckpt"
    torch.save(content, path)
    assert main(["compare", str(path)]) == 2
    error = capsys.readouterr().err.strip()
    assert "os.system" in error and "\n" not in error


@pytest.mark.parametrize("words", [["--input-size=0", "x"], ["x", "--json=/"], []])
def test_wrong_words_are_one_line(words, capsys) -> None:
    assert main(["compare", *words]) == 2
    assert "\n" not in capsys.readouterr().err.strip()


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_what_is_compared_is_not_replaced(option, tmp_path, capsys) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert main(["compare", str(tmp_path / "a.json"), f"{option}={tmp_path / 'a.json'}"]) == 2
    assert "a.json: the file that is read, which would be lost; give another one" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == "{}"
