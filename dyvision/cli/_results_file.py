"""What ``validate`` and ``test`` found as one JSON file, which ``dyvision compare`` reads."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from dyvision.analysis.macs import count_parameters
from dyvision.saving import check_target, write_text
from dyvision.tasks.results import evaluation_results, is_measured
from dyvision.version import VERSION

#: what says that a file is one of these
FORMAT = "dyvision evaluation"


class ResultsFile(Callback):
    """Writes the metrics of an evaluation, of each class too, and what was evaluated.

    Args:
        path: The file; written whole, by the first process.
        checkpoint: What is evaluated, as far as it is a file.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, path: str | Path, checkpoint: str | Path | None) -> None:
        super().__init__()
        check_target(path, "--json", checkpoint)
        self.path, self.checkpoint = Path(path).expanduser(), checkpoint
        self._started = 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file."""
        self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        numbers, per_class = evaluation_results(trainer, module, stage)
        data = getattr(trainer, "datamodule", None)
        model = _plain(dict(module.hparams))
        content = {
            "format": FORMAT,
            "stage": stage,
            "checkpoint": None if self.checkpoint is None else str(Path(self.checkpoint).resolve()),
            "task": getattr(module, "task", type(module).__name__),
            "backbone": model.get("backbone"),
            "layer": model.get("layer"),
            "monitor": getattr(module, "monitor", None),
            "metrics": _measured(numbers),
            "per_class": {name: _measured(values) for name, values in per_class.items()},
            "parameters": count_parameters(getattr(module, "network", None) or module),
            "seconds": time.perf_counter() - self._started,
            "device": str(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "versions": {
                "dyvision": VERSION,
                "torch": torch.__version__,
                "lightning": L.__version__,
                "python": platform.python_version(),
            },
            "model": model,
            "data": _plain(dict(getattr(data, "hparams", None) or {})),
        }
        write_text(self.path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _measured(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if is_measured(value) else None for name, value in values.items()}


def _plain(value: Any) -> Any:
    """As JSON has it; what it has not, as text."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    finite = not isinstance(value, float) or abs(value) < float("inf")
    return value if value is None or (isinstance(value, (bool, int, float, str)) and finite) else str(value)
