"""What a run shows, and what it no longer shows."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from dyvision.cli import (
    main,
    trainer,  # noqa: F401  Lightning binds its log to the standard error of its import: not that of a test
)

FIT = [
    "fit", "--task=classification", "--data.image_size=32", "--data.batch_size=8", "--data.num_workers=0",
    "--trainer.accelerator=cpu", "--model.backbone=mobilenetv2_035",
]  # fmt: skip
NOISE = (
    "FLOPs",
    "/-2",
    "dirpath has changed",
    "GPU available",
    "TPU available",
    "Trainer.fit` stopped",
    "Tip:",
    "Seed set",
    "eval mode",
    "Be aware that",
    "Restoring states",
    "not supported by the model summary",
    "v_num",
)


def _fit(sample_data, tmp_path, capfd, *options: str) -> str:
    root = [f"--data.root={sample_data / 'imagenet'}", f"--trainer.default_root_dir={tmp_path}"]
    assert main([*FIT, *root, *options]) == 0
    captured = capfd.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize("end", ["--trainer.max_steps=2", "--trainer.max_epochs=1"])
def test_no_noise(end, sample_data, tmp_path, capfd) -> None:
    said = _fit(sample_data, tmp_path, capfd, end)
    assert not [noise for noise in NOISE if noise in said], said
    assert "Epoch 1" in said and "parameters" in said


def test_no_noise_on_going_on(sample_data, tmp_path, capfd) -> None:
    _fit(sample_data, tmp_path, capfd, "--trainer.max_epochs=1")
    checkpoint = next(tmp_path.rglob("last.ckpt"))
    said = _fit(sample_data, tmp_path, capfd, "--trainer.max_epochs=2", f"--ckpt_path={checkpoint}")
    assert not [noise for noise in NOISE if noise in said], said


def test_no_noise_with_a_frozen_backbone(sample_data, tmp_path, capfd) -> None:
    options = ["--model.freeze_backbone=true", "--trainer.max_steps=1", "--trainer.precision=bf16-mixed"]
    said = _fit(sample_data, tmp_path, capfd, *options)
    assert not [noise for noise in NOISE if noise in said], said
    assert "frozen" in said


def test_no_noise_of_an_evaluation(sample_data, tmp_path, capfd) -> None:
    _fit(sample_data, tmp_path, capfd, "--trainer.max_steps=1")
    checkpoint = next(tmp_path.rglob("last.ckpt"))
    assert main(["validate", f"--ckpt_path={checkpoint}", f"--trainer.default_root_dir={tmp_path}"]) == 0
    captured = capfd.readouterr()
    said = captured.out + captured.err
    assert not [noise for noise in NOISE if noise in said], said
    assert "top1" in said


def test_summary_and_bar_can_be_turned_off(sample_data, tmp_path, capfd) -> None:
    options = ["--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false", "--trainer.max_steps=1"]
    said = _fit(sample_data, tmp_path, capfd, *options)
    assert "Epoch " not in said and "MB" not in said


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--trainer.max_epochs=2"], 2),  # 24 images in batches of 8: three steps per epoch
        (["--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"], 6),
        (["--trainer.max_epochs=2", "--trainer.accumulate_grad_batches=3"], 2),
        (["--trainer.max_steps=2"], 1),
    ],
)
def test_short_epochs_log_the_training_loss(options, count, sample_data, tmp_path, capfd) -> None:
    _fit(sample_data, tmp_path, capfd, "--trainer.enable_progress_bar=false", *options)
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    assert len(rows) == count


def test_a_run_has_no_output_option(sample_data, tmp_path, capfd) -> None:
    root = [f"--data.root={sample_data / 'imagenet'}", f"--trainer.default_root_dir={tmp_path}"]
    assert main([*FIT, *root, f"--output={tmp_path}"]) == 2
    assert "default_root_dir" in capfd.readouterr().err


def test_a_warning_is_one_line_without_code(tmp_path):
    """What was repaired in data is for users; the line of code that says so is not."""
    program = (
        "import sys, warnings; from dyvision.cli import main; main(['config', 'cat', 'layers/dcd.yaml']);"
        "warnings.warn('labels.json: red\\x1b[31m\\nbox', stacklevel=1)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert result.stderr == "dyvision: warning: labels.json: red\\x1b[31m box\n"
