"""Resuming in the middle of an epoch from any checkpoint: the counters of Lightning's loops."""

from __future__ import annotations

from typing import Any

import lightning as L


class FinishEpoch(L.Callback):
    """Goes on exactly where a checkpoint was taken, wherever in an epoch that was.

    Lightning restores its counters so that training goes on rightly after checkpoints of a few moments only. After
    others it leaves out the rest of an epoch (``max_steps`` ended inside it), a validation that was due, or counts a
    logged step twice. With this callback in the resumed run's trainer the counters become those of one of three
    moments: after a step, before a validation, between two epochs. So N steps and then M more are the same as N + M.
    """

    def __init__(self) -> None:
        super().__init__()
        self._between_epochs = False
        self._validating = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a checkpoint is one of before the validation."""
        self._validating = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a checkpoint is one of after the validation."""
        self._validating = False

    def state_dict(self) -> dict[str, Any]:
        """Whether a validation has begun and not ended; Lightning's counters do not say it."""
        return {"validating": self._validating}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Rewrite the counters of the loops, which Lightning restores after this."""
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        self._between_epochs = False
        if not {"epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict"} <= loops.keys():
            return
        self._hand_over_position(trainer, loops)
        # what is left of a time limit belongs to the run that was stopped
        checkpoint.get("callbacks", {}).pop("Timer", None)
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        epoch, batch = epochs["current"], batches["current"]
        trained, steps = batch["processed"], checkpoint["global_step"]
        last = batches["is_last_batch"] and batch["ready"] == trained  # it is set once the last batch was fetched
        validating = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("validating", False)
        if (trained == 0 and epoch["processed"] == epoch["completed"]) or (
            last and (epoch["processed"] == epoch["started"] or epoch["started"] < epoch["ready"])
        ):
            self._between_epochs, last = True, False
            _set(epochs, epoch["processed"])
            _set(batches, trained)
            stepped = steps
        elif validating:
            _set(epochs, epoch["completed"], begun=1)
            _set(batches, trained)
            _repeat(loops["epoch_loop.val_loop.batch_progress"])
            stepped = steps - 1
        elif last:
            return  # Lightning ends this epoch rightly
        else:
            _set(epochs, min(epoch["completed"], epoch["started"] - 1), begun=1)
            _set(batches, trained - 1, begun=1, processed=1)
            stepped = steps - (trained % trainer.accumulate_grad_batches == 0)
        batches["is_last_batch"] = last
        optimizer = loops.get("epoch_loop.automatic_optimization.optim_progress", {}).get("optimizer", {})
        if optimizer.get("step", {}).get("total", {}).get("completed") == steps:
            # the step at which rows are logged: Lightning itself adds the last one after a step and a validation
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] = max(stepped, 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the next epoch from its first batch, which Lightning does not do for a run with ``max_steps``."""
        if self._between_epochs:
            trainer.fit_loop.epoch_loop.restarting = False
            self._between_epochs = False

    @staticmethod
    def _hand_over_position(trainer: L.Trainer, loops: dict[str, Any]) -> None:
        # checkpoints older than data modules that store the position themselves have it here only
        data: Any = getattr(trainer, "datamodule", None)
        states = loops.get("state_dict", {}).get("combined_loader") or []
        if hasattr(data, "take_stored_position") and len(states) == 1:
            data.load_state_dict({"train_loader": states[0]})


def _set(progress: dict[str, Any], done: int, begun: int = 0, processed: int = 0) -> None:
    """Set the counters: ``done`` completed, ``begun`` more started, ``processed`` more processed."""
    before = progress["total"]["processed"] - progress["current"]["processed"]
    for name, value in {"ready": begun, "started": begun, "processed": processed, "completed": 0}.items():
        progress["current"][name] = done + value
        progress["total"][name] = before + done + value


def _repeat(validation: dict[str, Any]) -> None:
    """Set the counters to a validation in its first batch, which Lightning repeats from its start."""
    for counters, started in ((validation["current"], 0), (validation["total"], 1)):
        counters.update(ready=started, started=started, processed=0, completed=0)
    validation["is_last_batch"] = False
