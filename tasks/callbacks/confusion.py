"""Which classes were taken for which, as a table and a picture in the run's folder."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from dyvision.saving import replacing
from dyvision.text import csv_cell
from dyvision.visualize.figures import heat_map, name_ticks, new_figure, save_figure

#: with more classes, names cannot be read, and a number does not fit into its cell
_MOST_NAMES, _MOST_NUMBERS = 60, 25


class ConfusionMatrixWriter(Callback):
    """Writes ``confusion_<stage>.csv`` and ``.png`` when ``fit``, ``validate`` or ``test`` ends.

    For metrics that have a confusion matrix (``last_confusion``, ``class_names``): images in classification, pixels in
    segmentation. Rows are labels, columns are predictions.

    Args:
        folder: Where; None for the logger's folder, and without a logger nothing is written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the matrix of the validation set, except during training."""
        if trainer.state.fn == "validate":
            self._write(trainer, pl_module, "val")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the matrix of the last validation."""
        self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the matrix of the test set."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        folder: str | Path | None = self.folder
        if folder is None and trainer.loggers:
            folder = trainer.log_dir  # asked for in every process: the first one answers
        metrics = getattr(module, "metrics", {})
        metric: Any = metrics[stage] if stage in metrics else None
        matrix = getattr(metric, "last_confusion", None)
        trial = getattr(trainer, "fast_dev_run", False)
        if matrix is None or folder is None or trial or not trainer.is_global_zero:
            return
        save_confusion(matrix.numpy(), metric.class_names, Path(folder, f"confusion_{stage}"))


def save_confusion(matrix: NDArray[np.int64], names: Sequence[str], target: Path) -> None:
    """Write ``<target>.csv`` (counts) and ``<target>.png`` (share of each row).

    Args:
        matrix: Counts ``[C, C]``: row = label, column = prediction.
        names: Of the classes.
        target: Path without suffix.
    """
    with replacing(target.with_suffix(".csv")) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        cells = [csv_cell(name) for name in names]
        writer.writerow(["label \\ prediction", *cells])
        writer.writerows([name, *row] for name, row in zip(cells, matrix.tolist(), strict=True))
    _draw(matrix, names, target.with_suffix(".png"))


def _draw(matrix: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    count = len(names)
    side = min(3.5 + 0.32 * count, 12.0)
    figure = new_figure(side + 1.0, side)
    axes = figure.add_subplot()
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    image = heat_map(axes, shares, 0, 1, "Blues")
    figure.colorbar(image, ax=axes, label="share of the label's row", shrink=0.8)
    if count <= _MOST_NAMES:
        size = "small" if count <= _MOST_NUMBERS else "xx-small"
        name_ticks(axes.xaxis, names, size, rotation=90)
        name_ticks(axes.yaxis, names, size)
    if count <= _MOST_NUMBERS:
        for row, column in np.argwhere(shares >= 0.005):
            color = "white" if shares[row, column] > 0.6 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize="x-small", color=color)
    axes.set_xlabel("prediction" + (" (numbers: % of the row)" if count <= _MOST_NUMBERS else ""))
    axes.set_ylabel("label")
    save_figure(figure, path, dpi=110)
