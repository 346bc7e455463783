"""Runs that are stopped from outside end between two steps, so that they can go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from dyvision.tasks.callbacks.moments import between_steps


class Stopped(Exception):
    """A run that was asked to stop has stopped.

    Attributes:
        signum: The signal that asked.
        status: The exit status by the shell's convention: 128 and the number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.status = 128 + signum


class StopOnSignal(Callback):
    """Ends training after the optimiser step under way when SIGINT (Ctrl-C) or SIGTERM comes.

    It raises :class:`Stopped`; a checkpoint callback saves. A second signal stops at once, as does one before training
    has begun. In a validation it does not wait for the end: a resumed run validates again.

    Attributes:
        signum: The signal that came; None so far.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        super().__init__()
        self.signum: int | None = None
        self._before: dict[int, Any] = {}
        self._speaks = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen, in place of Lightning, which validates first and then does not save."""
        self.signum = None
        self._speaks = trainer.is_global_zero  # Ctrl-C reaches all processes
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._before.setdefault(number, signal.signal(number, self._receive))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop between two steps."""
        self._stop_if_asked(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between two epochs."""
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop before a validation."""
        self._stop_if_asked(trainer)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop in the middle of a validation."""
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training is over: leave the signals to those who had them."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """The same."""
        self._restore()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            self._restore()
            raise KeyboardInterrupt
        self.signum = signum
        if not self._speaks:
            return
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        print(f"\n{name}: stopping after this step (once more: at once)", flush=True)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._before or not between_steps(trainer):
            return
        # a signal may have come to one process only; all of them stop at the same step
        asked = self.signum or 0
        if trainer.world_size > 1:
            flag = torch.tensor(asked, device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(flag, reduce_op="max"))
        if asked:
            raise Stopped(asked)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
