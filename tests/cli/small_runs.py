"""Runs of a few steps on the sample data, and what they leave, for the tests of the command line."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

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


class Fail(Callback):
    """An error in the middle of a run: in a step, or where the next batch is read."""

    step, inside = 6, False

    def on_before_zero_grad(self, trainer: Any, *rest: Any) -> None:
        if self.inside and trainer.global_step == self.step:
            raise ValueError("broken in a step")

    def on_train_batch_start(self, trainer: Any, *rest: Any) -> None:
        if not self.inside and trainer.global_step == self.step:
            raise ValueError("broken between two steps")


def with_callback(added: type[Callback]) -> type[Callback]:
    from dyvision.tasks.metrics_log import LogPosition

    # a run has one of these; the test's callback does its work beside it
    return type("LogPosition", (added, LogPosition), {})
