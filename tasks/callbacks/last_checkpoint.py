"""The checkpoint from which a run goes on: written by steps, by time, between epochs and at the end."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from dyvision.tasks.callbacks.moments import between_steps
from dyvision.tasks.callbacks.stopping import Stopped


class LastCheckpoint(Callback):
    """Keeps ``last.ckpt`` the end of the run, whatever the metric does.

    It is written between two optimiser steps only, after what belongs to the step before was logged: a run that goes on
    from it ends in the same weights and the same log as one that was never stopped. Besides the moments below it is
    written between two epochs, at the end of training, and when an exception or a signal ends the run at a moment from
    which one can go on exactly; otherwise the one before stays.

    Args:
        every_n_train_steps: Write it every so many optimiser steps, too.
        every_minutes: Write it when so many minutes have passed since the last time; None never.
        dirpath: Folder for ``last.ckpt``; by default ``checkpoints`` below the folder of the trainer's logs.

    Attributes:
        path: The file, once training has begun; None before.
        saved_step: Optimiser steps done when it was last written (or read); None if it was not.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        every_n_train_steps: int | None = None,
        every_minutes: float | None = 15.0,
        dirpath: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("every_n_train_steps", every_n_train_steps), ("every_minutes", every_minutes)):
            if value is not None and not value > 0:
                raise ValueError(f"last.{name}={value!r}: expected a number above 0, or null")
        self.every_n_train_steps = every_n_train_steps
        self.every_minutes = every_minutes
        self.dirpath = dirpath
        self.path: Path | None = None
        self.saved_step: int | None = None
        self._saved_epoch: int | None = None
        self._saved_at = 0.0
        self._writing_failed = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the file and begin to count.

        A file that another run has written is left alone; that from which this run goes on is written again.
        """
        folder = Path(self.dirpath or Path(trainer.log_dir or trainer.default_root_dir, "checkpoints"))
        resumed = Path(trainer.ckpt_path).resolve() if trainer.ckpt_path is not None else None
        path, number = folder / "last.ckpt", 0
        while path.exists() and path.resolve() not in (resumed, self.path):
            number += 1
            path = folder / f"last-v{number}.ckpt"
        self.path = trainer.strategy.broadcast(path.resolve())
        self._saved_at = time.monotonic()
        self.saved_step = trainer.global_step if resumed == self.path else None
        self._saved_epoch = trainer.current_epoch if resumed == self.path else None
        self._writing_failed = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save between two epochs: everything that belongs to the one before is done and logged."""
        if trainer.global_step > 0:
            self._save(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps if it is time to."""
        self._save_if_due(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save before a validation if it is time to."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_if_due(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of training."""
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what was reached, if the exception came at a moment from which one can go on exactly."""
        alone = trainer.world_size == 1 or isinstance(exception, Stopped)  # otherwise the others do not come here
        if self.path is None or not alone or self._writing_failed or not between_steps(trainer):
            return
        if self.saved_step is None and trainer.global_step == 0:
            return
        with suppress(OSError):  # the exception itself is what has to be reported
            self._save(trainer)

    def _save_if_due(self, trainer: L.Trainer) -> None:
        steps = trainer.global_step
        if steps in (self.saved_step, 0) or not between_steps(trainer):
            return
        by_steps = self.every_n_train_steps is not None and steps // self.every_n_train_steps > (
            (self.saved_step or 0) // self.every_n_train_steps
        )
        by_time = (
            self.every_minutes is not None
            # the processes' clocks differ, and all of them have to save or none
            and bool(trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_minutes))
        )
        if by_steps or by_time:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if self.path is None or getattr(trainer, "fast_dev_run", False):
            return
        if (self.saved_step, self._saved_epoch) == (trainer.global_step, trainer.current_epoch):
            return
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        except OSError:
            self._writing_failed = True
            raise
        self.saved_step, self._saved_epoch = trainer.global_step, trainer.current_epoch
        self._saved_at = time.monotonic()
