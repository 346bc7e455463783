"""Resuming in the middle of an epoch from any checkpoint."""

from __future__ import annotations

from typing import Any

import lightning as L


class FinishEpoch(L.Callback):
    """Goes on with the epoch in which ``max_steps`` ended a run.

    When ``max_steps`` is reached inside an epoch, Lightning counts that epoch as done before it saves the last
    checkpoint; a resumed run would begin the next epoch and never see the batches left. With this callback in the
    resumed run's trainer it takes them first, so that N steps and then M more are the same as N + M.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes back the count of an epoch that was not finished."""
        loop = checkpoint.get("loops", {}).get("fit_loop", {})
        epochs, batches = loop.get("epoch_progress"), loop.get("epoch_loop.batch_progress")
        if not epochs or not batches or batches["is_last_batch"] or batches["current"]["processed"] == 0:
            return
        if epochs["current"]["processed"] == epochs["current"]["started"]:
            for count in (epochs["current"], epochs["total"]):
                count["processed"] -= 1
                count["completed"] = min(count["completed"], count["processed"])
