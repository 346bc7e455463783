"""What 8-bit integers cost: images to calibrate with, and the metrics of both files on the validation split."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dyvision.tables import NAME, FittingTable
from dyvision.tasks.exporting.file_networks import OnnxDetector, OnnxNetwork
from dyvision.tasks.exporting.running import load_exported


def calibration_images(path: Path, data: Any, count: int, trust: Collection[str] = ()) -> Tensor:
    """Images of the training split as evaluation sees them, and as a file takes them.

    Args:
        path: The file.
        data: A data module of dyvision.
        count: How many, evenly over the split.
        trust: Names that its hyperparameters may use.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        DataError: If the data is not there.
    """
    network = load_exported(path, trust).network
    if not isinstance(network, (OnnxNetwork, OnnxDetector)):
        raise TypeError(f"{path}: run by {type(network).__name__}")
    dataset = data.build_dataset(data.train_split, train=False)
    chosen = sorted({index * len(dataset) // count for index in range(count)})
    batches = [network.given([dataset[index]["image"]]) for index in chosen]
    return torch.cat(batches)


def evaluate(path: Path, data: Any, trust: Collection[str] = ()) -> dict[str, float]:
    """Metrics of a file on the validation split, by the names that ``validate`` prints."""
    with TemporaryDirectory(prefix="dyvision-") as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        (metrics,) = trainer.validate(load_exported(path, trust), datamodule=data, verbose=False)
    return {name.partition("/")[2]: float(value) for name, value in metrics.items()}


def metrics_table(before: dict[str, float], after: dict[str, float]) -> FittingTable:
    """Metrics of both files and the change; those of single classes are left out."""
    table = FittingTable(title="validation split")
    for header, importance in (("metric", NAME), ("float", 1), ("int8", 1), ("change", 1)):
        table.add_column(header, importance, "left" if importance == NAME else "right")
    for name, value in before.items():
        if name.count("/") == 0:
            table.add_row(name, f"{value:.4f}", f"{after[name]:.4f}", f"{after[name] - value:+.4f}")
    return table
