"""Small training runs, what they leave behind, and how it differs from what the run leaves that nobody stopped."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _processes import Process, start

from dyvision.tasks.metrics_log import read_rows

FORMATS = {"classification": "imagenet", "segmentation": "cityscapes", "detection": "coco"}
SIZES = {
    "classification": ["--data.image_size=32"],
    "segmentation": ["--data.crop_size=[64,64]"],
    "detection": [],
}
SAVE_EACH_STEP = "--last.every_n_train_steps=1"


class Failure(Exception):
    """A case did not come out as it should; the message says how."""


class Skipped(Exception):
    """A case cannot be tried here; the message says why."""


@dataclass
class Bench:
    """Where the cases run, and what an unbroken run gives."""

    root: Path
    random: random.Random
    references: dict[tuple[str, ...], tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=dict)

    def folder(self, name: str) -> Path:
        """A new folder for one case."""
        return Path(tempfile.mkdtemp(dir=self.root, prefix=f"{name}-"))

    def fit(self, task: str, *options: str) -> list[str]:
        """The command line of a small run: a schedule with a warm-up, augmentation, drop path, several validations."""
        return [
            *("fit", f"--config={task}/quickstart.yaml", "--sample_data=null"),
            *(f"--data.root={self.root / 'data' / FORMATS[task]}", "--data.batch_size=4", "--data.eval_batch_size=4"),
            *("--model.backbone=mobilenetv2_035", "--model.layer=dyconv", "--model.drop_path_rate=0.1"),
            *("--model.lr_schedule=cosine", "--model.warmup_steps=2", *SIZES[task]),
            *("--trainer.limit_train_batches=5", "--trainer.limit_val_batches=2", "--trainer.max_epochs=3"),
            *("--trainer.check_val_every_n_epoch=1", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"),
            *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *options),
        ]

    def reference(self, task: str, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Last checkpoint and log of the run that nobody stopped."""
        key = (task, *options)
        if key not in self.references:
            folder = self.folder("unbroken")
            process = start(self.fit(task, *options), folder)
            if process.wait() != 0:
                raise Failure(f"the unbroken run failed: {process.tail()}")
            self.references[key] = outcome(folder, task)
        return self.references[key]


def outcome(folder: Path, task: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Last checkpoint and log of the only run below a folder."""
    versions = list((folder / "runs" / task).iterdir())
    if [path.name for path in versions] != ["version_0"]:
        raise Failure(f"expected the one folder version_0, found {sorted(path.name for path in versions)}")
    left = [path.name for path in versions[0].rglob(".*.part*")]
    if left:
        raise Failure(f"left behind: {left}")
    last = torch.load(versions[0] / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return last, read_rows(versions[0] / "metrics.csv")[1]


def differences(got: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """Where two nested structures differ, bit by bit."""
    if isinstance(wanted, torch.Tensor):
        if not (isinstance(got, torch.Tensor) and got.dtype == wanted.dtype and torch.equal(got, wanted)):
            yield where
    elif isinstance(wanted, dict):
        if not isinstance(got, dict) or got.keys() != wanted.keys():
            yield f"{where} (keys)"
        else:
            for name, value in wanted.items():
                yield from differences(got[name], value, f"{where}/{name}")
    elif isinstance(wanted, (list, tuple)):
        if len(got) != len(wanted):
            yield f"{where} ({len(got)} instead of {len(wanted)})"
        else:
            for index, value in enumerate(wanted):
                yield from differences(got[index], value, f"{where}/{index}")
    elif got != wanted and not (got != got and wanted != wanted):
        yield f"{where}: {got!r} instead of {wanted!r}"


def require_equal(bench: Bench, folder: Path, task: str, *options: str) -> None:
    """The run in a folder ended as the unbroken one: weights, optimiser, average, random numbers, log."""
    wanted, wanted_rows = bench.reference(task, *options)
    got, rows = outcome(folder, task)
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "ema", "global_step", "epoch", "random_state"):
        wrong = list(differences(got.get(name), wanted.get(name), name))
        if wrong:
            raise Failure(f"{len(wrong)} differences, first {wrong[0]}")
    wrong = list(differences(rows, wanted_rows, "metrics.csv"))
    if wrong:
        raise Failure(f"{len(wrong)} differences in the log of {len(rows)} rows, first {wrong[0]}")


def checkpoint(folder: Path, task: str) -> Path:
    """Where the run below a folder has its last checkpoint."""
    return folder / "runs" / task / "version_0" / "checkpoints" / "last.ckpt"


def wait_for_writes(process: Process, path: Path, count: int, inside: bool = False) -> bool:
    """Wait until a checkpoint was written so often (or is being written for the next time); False if it ended."""
    part = path.with_name(".last.part.ckpt")
    seen: set[int] = set()
    while process.poll() is None:
        try:
            seen.add(path.stat().st_mtime_ns)
        except FileNotFoundError:
            pass
        if len(seen) >= count and (not inside or part.exists()):
            return True
        time.sleep(0.0005)
    return False
