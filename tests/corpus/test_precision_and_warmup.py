"""Options that are fine by themselves and wrong for the run: told by name."""

from __future__ import annotations

import pytest
import torch

from dyvision.tasks.divergence import check_loss

LONG = ["--trainer.max_steps=8", "--trainer.max_epochs=10"]


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_half_precision_is_blamed_for_nan(task, refused_in_fit) -> None:
    refused_in_fit(task, [*LONG, "--trainer.precision=16-true"], "nan", "16-true", "bf16-mixed", "files")


@pytest.mark.parametrize("precision", [None, "32-true", "bf16-mixed"])
def test_other_causes_are_not_blamed_on_the_precision(precision) -> None:
    with pytest.raises(FloatingPointError, match=r"lower lr.*a\.jpg") as caught:
        check_loss(torch.tensor(float("inf")), {"path": ["a.jpg"]}, 3, precision)
    assert "precision" not in str(caught.value)


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_bfloat16_weights_train_and_are_drawn(task, fit_one_step, capfd) -> None:
    assert fit_one_step(task, ["--trainer.precision=bf16-true"]) == 0, capfd.readouterr().err


@pytest.mark.parametrize("schedule", ["cosine", "constant", "multistep"])
def test_a_warmup_longer_than_the_run_is_told(schedule, fit_one_step) -> None:
    with pytest.warns(UserWarning, match=r"warmup_steps=1,000 .* run of 1 steps"):
        assert fit_one_step("classification", ["--model.warmup_steps=1000", f"--model.lr_schedule={schedule}"]) == 0


@pytest.mark.parametrize("warmup", [0, 1, 0.5])
def test_a_warmup_within_the_run_is_not(warmup, fit_one_step, recwarn) -> None:
    assert fit_one_step("classification", [f"--model.warmup_steps={warmup}"]) == 0
    assert not [one for one in recwarn if "warmup" in str(one.message)]


def test_a_small_image_that_the_detector_enlarges_is_told(fit_one_step) -> None:
    with pytest.warns(UserWarning, match=r"data\.image_size=32 makes images smaller, and model\.min_size=64 larger"):
        assert fit_one_step("detection", ["--data.image_size=32", "--model.min_size=64"]) == 0
