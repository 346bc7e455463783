"""The last weights of a run are evaluated, wherever in an epoch it ends."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class FinalValidation(Callback):
    """Validates after the last step of a run, even where no validation is due.

    ``max_steps`` and ``max_time`` end a run inside an epoch, ``check_val_every_n_epoch`` may not divide the number of
    epochs: Lightning then never evaluates the last weights. With this callback the last metrics, and the choice of the
    best checkpoint, include them.

    Append it to ``trainer.callbacks``, behind those that end a run: Lightning itself adds the one for ``max_time``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._intervals: tuple[int | None, Any] | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make a validation due if this was the last batch."""
        if self._intervals is None and trainer.enable_validation and self._ends(trainer):
            self._intervals = trainer.check_val_every_n_epoch, trainer.val_check_batch
            trainer.check_val_every_n_epoch, trainer.val_check_batch = 1, 1

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the trainer its intervals back."""
        self._restore(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """The same."""
        self._restore(trainer)

    def _restore(self, trainer: L.Trainer) -> None:
        if self._intervals is not None:
            trainer.check_val_every_n_epoch, trainer.val_check_batch = self._intervals
            self._intervals = None

    @staticmethod
    def _ends(trainer: L.Trainer) -> bool:
        epochs, steps = trainer.max_epochs, trainer.max_steps
        if steps != -1 and trainer.global_step >= steps:
            return True
        if trainer.is_last_batch and epochs not in (None, -1) and trainer.current_epoch + 1 >= epochs:
            return True
        early = trainer.current_epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
        return trainer.should_stop and early
