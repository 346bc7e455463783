"""If this failed, a recipe would end in a traceback as soon as somebody asks for mixed precision."""

from __future__ import annotations

import pytest

from dyvision.cli import main
from tests.cli.small_runs import arguments, load, version


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_quickstart_recipes_train_in_mixed_precision(task, precision, sample_data, place, capsys) -> None:
    """They clip gradients, and their optimiser is fused."""
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", f"--trainer.precision={precision}"]
    assert main(arguments(sample_data, *short, task=task)) == 0
    (group, *_) = load(version(place, task=task) / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert group["fused"] is True


def test_an_option_that_gradients_in_the_backward_pass_exclude_is_one_line(sample_data, place, capsys) -> None:
    assert main(arguments(sample_data, "--model.optimizer_in_backward=true")) == 2
    line = capsys.readouterr().err.strip()
    assert "model.optimizer_in_backward=true does not go with trainer.gradient_clip_val=5" in line
    assert "\n" not in line
    options = ["--trainer.gradient_clip_val=null", "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    assert main(arguments(sample_data, "--model.optimizer_in_backward=true", *options)) == 0
