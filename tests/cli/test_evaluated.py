"""What a checkpoint is evaluated on. If these fail, a run is scored on its own training images, or on nothing found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dyvision.cli import main

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--data.num_workers=0",
]
SMALL = ["--model.backbone=mobilenetv2_035", "--data.image_size=32", "--data.batch_size=4"]


def fit(root: Any, *options: str) -> int:
    start = ["fit", "--task=classification", f"--data.root={root}", "--trainer.max_steps=1"]
    return main([*start, *SMALL, *QUIET, *options])


@pytest.fixture
def trained(sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains for a step in the current folder; returns the end of the run."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, root: Any = sample_data / "imagenet") -> Path:
        assert fit(root, *options) == 0
        return max(Path("runs/classification").glob("version_*/checkpoints/last.ckpt"))

    return run


@pytest.mark.parametrize("command", ["validate", "test"])
def test_training_images_are_not_evaluated_as_new_ones(command, trained, capsys) -> None:
    path = trained()
    assert main([command, f"--ckpt_path={path}", "--data.val_fraction=0.5", *QUIET]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "val_fraction=0.5" in line and "trained on all of the split 'train'" in line and str(path) in line
    assert main([command, f"--ckpt_path={path}", *QUIET]) == 0


def test_another_choice_than_the_checkpoints_is_refused(trained, capsys) -> None:
    path = trained("--data.val_fraction=0.2", "--data.val_seed=3")
    for option in ("val_fraction=0.5", "val_seed=4"):
        assert main(["validate", f"--ckpt_path={path}", f"--data.{option}", *QUIET]) == 2
        assert "val_fraction=0.2, val_seed=3" in capsys.readouterr().err
    assert main(["validate", f"--ckpt_path={path}", "--data.val_fraction=0.2", *QUIET]) == 0


def test_a_part_of_another_data_set_may_be_evaluated(trained, sample_data, tmp_path, capsys) -> None:
    path = trained()
    shutil.copytree(sample_data / "imagenet", tmp_path / "other")
    other = [f"--data.root={tmp_path / 'other'}", "--data.val_fraction=0.5"]
    assert main(["validate", f"--ckpt_path={path}", *other, *QUIET]) == 0


def test_a_checkpoint_finds_its_data_from_another_folder(trained, sample_data, tmp_path, monkeypatch, capsys) -> None:
    shutil.copytree(sample_data / "imagenet", tmp_path / "photos")
    path = trained(root="photos").absolute()
    assert torch.load(path, weights_only=True)["datamodule_hyper_parameters"]["root"] == str(tmp_path / "photos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["validate", f"--ckpt_path={path}", *QUIET]) == 0
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert main(["validate", f"--ckpt_path={path}", *QUIET]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "photos") in line and "data.root of the checkpoint" in line and "--data.root=" in line
    assert main(["predict", f"--ckpt_path={path}", f"--data.predict_root={tmp_path / 'moved/val'}", *QUIET]) == 0
    assert main(["validate", f"--ckpt_path={path}", f"--data.root={tmp_path / 'moved'}", *QUIET]) == 0


def test_a_relative_root_says_where_it_was_looked_up(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("task: classification\ndata: {root: photos}\n")
    assert main(["fit", "--config=own.yaml", "--trainer.max_steps=1", *SMALL, *QUIET]) == 2
    assert f"(looked up as {tmp_path / 'photos'})" in capsys.readouterr().err


@pytest.mark.parametrize("base", ["--config=classification/quickstart.yaml", "--config=own.yaml"])
def test_sample_data_is_drawn_where_it_is_used_only(base, sample_data, tmp_path, monkeypatch) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr("dyvision.cli.trainer.ensure_sample_data", drawn.append)
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("base: classification/quickstart.yaml\nmodel: {backbone: mobilenetv2_035}\n")
    arguments = ["fit", base, *SMALL, *QUIET, "--trainer.fast_dev_run=true"]
    assert main([*arguments, f"--data.root={sample_data / 'imagenet'}"]) == 0
    assert drawn == [] and not Path("dyvision_sample").exists()
    assert main([*arguments, "--sample_data=elsewhere", "--data.root=elsewhere/imagenet"]) == 2  # not drawn: a stub
    assert drawn == [Path("elsewhere")]
