"""The results of ``fit``, ``validate`` and ``test`` as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from dyvision.tables import NAME, FittingTable, make_console
from dyvision.tasks.results import evaluation_results, is_measured
from dyvision.text import plain, printable

#: more classes than this do not fit on a screen: the lowest are shown
_MOST_CLASSES = 40


class ResultsTable(Callback):
    """Prints the metrics of ``trainer.validate``, ``trainer.test`` and of the last validation of ``trainer.fit``.

    One table of numbers, one per class.

    Args:
        console: Where to print; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or make_console()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the validation metrics, except during training."""
        if trainer.state.fn == "validate":
            self._print(trainer, pl_module, "val")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the metrics of the last validation, if there was one."""
        if any(name.startswith("val/") for name in trainer.callback_metrics):
            self._print(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the test metrics."""
        self._print(trainer, pl_module, "test")

    def _print(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        numbers, per_class = evaluation_results(trainer, module, stage)
        table = FittingTable(f"{getattr(module, 'task', type(module).__name__)}, {stage}")
        table.add_column("metric", NAME, folds=16)
        table.add_column("value", justify="right")
        for name, value in numbers.items():
            table.add_row(plain(name), _number(value))
        self.console.print(table)
        if per_class:
            self.console.print(_class_table(per_class))


def _class_table(per_class: Mapping[str, Mapping[str, float]]) -> FittingTable:
    kinds = list(dict.fromkeys(kind for values in per_class.values() for kind in values))
    title = None
    if len(per_class) > _MOST_CLASSES:
        worst = sorted(per_class, key=lambda name: _rank(per_class[name].get(kinds[0])))[:_MOST_CLASSES]
        title = f"the {_MOST_CLASSES} of {len(per_class)} classes with the lowest {kinds[0]}"
        per_class = {name: per_class[name] for name in worst}
    table = FittingTable(title)
    table.add_column("class", NAME, folds=16)  # a long name takes lines, the values stay
    for kind in kinds:
        table.add_column(printable(kind), justify="right")
    for class_name, values in per_class.items():
        table.add_row(plain(class_name), *(_number(values[kind]) if kind in values else "-" for kind in kinds))
    return table


def _rank(value: float | None) -> float:
    return value if value is not None and value >= 0 else float("inf")


def _number(value: float) -> str:
    if not is_measured(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
