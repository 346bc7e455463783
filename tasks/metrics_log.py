"""The log of a run as CSV, which a resumed run continues without lost or doubled rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from dyvision.saving import write_text

#: key of a checkpoint: how many rows the log had
ROWS = "log_rows"


class MetricsLog(CSVLogger):
    """``metrics.csv`` as Lightning's ``CSVLogger`` writes it; a checkpoint knows how many rows it had.

    Args:
        save_dir: Folder of all runs.
        name: Folder below it.
        version: Number of the run.
        kept: Log of the run that is continued, and how many of its rows belong to it.
        **options: As for ``CSVLogger``.
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str,
        version: int | str | None = None,
        kept: tuple[Path, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(save_dir, name, version, **options)
        self.kept = kept
        self._writer: _Rows | None = None

    @property
    def experiment(self) -> Any:
        """The file; on other processes than the first nothing is written."""
        if self._writer is None:
            self._writer = _Rows(Path(self.log_dir), self.kept)
        return self._writer

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Add a row."""
        super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.save()

    @property
    def rows(self) -> int:
        """Rows so far."""
        return 0 if self._writer is None else self._writer.count


class _Rows:
    """The rows of one file; those on the disk stay there, new ones are added behind them."""

    def __init__(self, folder: Path, kept: tuple[Path, int] | None) -> None:
        self.path = folder / "metrics.csv"
        self.metrics: list[dict[str, Any]] = []
        self.columns: list[str] = []
        self.hparams: dict[str, Any] = {}
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)
        if kept is not None:
            source, count = kept
            self.columns, rows = read_rows(source)
            self._rewrite(rows[:count])
            self.count = min(count, len(rows))

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self.metrics.append({**values, "step": step})
        self.count += 1

    def log_hparams(self, params: Mapping[str, Any]) -> None:
        # hparams.yaml is TensorBoardLogger's, in the same folder
        self.hparams.update(params)

    def save(self) -> None:
        if not self.metrics:
            return
        new = {name for row in self.metrics for name in row} - set(self.columns)
        if new:
            _, rows = read_rows(self.path)
            self.columns = sorted({*self.columns, *new})
            self._rewrite([*rows, *self.metrics])
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self.columns).writerows(self.metrics)
        self.metrics = []

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())


def read_rows(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a log; both empty without a file. A row that a killed process did not finish is left out."""
    if not path.is_file():
        return [], []
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    rows = [row for row in reader if None not in row and None not in row.values()]
    return list(reader.fieldnames or []), rows


class LogPosition(Callback):
    """Writes the logs out before every checkpoint, and how many rows they have into it."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Flush and count."""
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, MetricsLog):
                checkpoint[ROWS] = logger.rows
