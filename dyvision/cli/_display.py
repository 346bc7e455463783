"""What a run shows: the network's size, a progress bar, and a loss in the log however short an epoch is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelSummary, ProgressBar, RichModelSummary, RichProgressBar
from rich.console import Console
from rich.table import Table

#: Lightning's own default of ``log_every_n_steps``
_LOG_EVERY = 50


def display_callbacks(options: Mapping[str, Any]) -> list[Callback]:
    """The callbacks for what the trainer's options leave open.

    Args:
        options: Arguments of the trainer, ``callbacks`` as a list.
    """
    given = options["callbacks"]
    added: list[Callback] = []
    if options["enable_model_summary"] is not False and not any(isinstance(item, ModelSummary) for item in given):
        added.append(NetworkSummary())
    if options["enable_progress_bar"] is not False and not any(isinstance(item, ProgressBar) for item in given):
        added.append(EpochBar())
    if options["log_every_n_steps"] is None:
        added.append(LogShortEpochs())
    return added


class NetworkSummary(RichModelSummary):
    """The parts of the network with their parameters; multiply-adds are counted by ``dyvision profile``."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        """Print the table."""
        columns = dict(summary_data)
        table = Table()
        table.add_column("part", no_wrap=True)
        table.add_column("type")
        table.add_column("parameters", justify="right")
        for name, kind, count in zip(columns["Name"], columns["Type"], columns["Params"], strict=True):
            if name not in ("metrics", "losses") and count.strip() != "0":
                table.add_row(name, kind, count)
        frozen = total_parameters - trainable_parameters
        trained = "all trained" if frozen == 0 else f"{trainable_parameters:,} trained, {frozen:,} frozen"
        console = Console()
        console.print(table)
        console.print(f"{total_parameters:,} parameters, {trained}; {model_size:.1f} MB", highlight=False)


class EpochBar(RichProgressBar):
    """Lightning's progress bar, epochs from 1, without a last one where training ends by steps or time, and short."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Without the number of the version folder, which costs a line of a narrow terminal."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        # private, but the only place where the text is made: it counts from 0, and to -2 with max_epochs=-1
        last = "" if self.trainer.max_epochs in (None, -1) else f"/{self.trainer.max_epochs}"
        return f"Epoch {current_epoch + 1}{last}".ljust(len(self.validation_description))


class LogShortEpochs(Callback):
    """Logs the training loss at least once per epoch, where nobody said how often."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log every 50 steps, or as often as there are steps in an epoch or in the whole run."""
        batches = trainer.num_training_batches
        steps = batches / trainer.accumulate_grad_batches if batches < math.inf else _LOG_EVERY
        if trainer.max_steps > 0:
            steps = min(steps, trainer.max_steps)
        # a plain public attribute, which the logging reads at every step
        trainer.log_every_n_steps = max(1, min(_LOG_EVERY, math.floor(steps)))  # type: ignore[attr-defined]
