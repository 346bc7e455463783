"""How many optimiser steps a whole training has: schedules of the learning rate and of layers go by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning as L


def schedule_length(trainer: Any, checkpoint: Mapping[str, Any] | None) -> float:
    """Optimiser steps in the whole training, those of the runs before included.

    Lightning counts the epochs times the steps of one. A run that goes on with epochs of another length (another batch
    size, fewer images) has the steps that were taken and those that are left.

    Args:
        trainer: Of the run; the loader is built.
        checkpoint: ``global_step`` and ``loops`` of what it goes on from; None for a new run.
    """
    total: float = trainer.estimated_stepping_batches
    epochs, batches = trainer.max_epochs, trainer.num_training_batches
    fit: Mapping[str, Any] = (checkpoint or {}).get("loops", {}).get("fit_loop", {})
    names = ("epoch_progress", "epoch_loop.batch_progress")
    counted = [fit[name].get("current") for name in names if isinstance(fit.get(name), Mapping)]
    known = len(counted) == len(names) and all(isinstance(counts, Mapping) for counts in counted)
    if checkpoint is None or not known or epochs in (None, -1) or batches == math.inf:
        return total
    epoch, batch = counted
    steps = math.ceil(batches / trainer.accumulate_grad_batches)
    before = epoch.get("completed", 0) * steps
    inside = min(math.ceil(batch.get("processed", 0) / trainer.accumulate_grad_batches), steps)
    taken = checkpoint["global_step"]
    if taken in (before, before + inside, before + batch.get("processed", 0) // trainer.accumulate_grad_batches):
        return total  # as if it had never been stopped
    begun = epoch.get("ready", 0) > epoch.get("completed", 0)
    whole = taken + epochs * steps - before - (inside if begun else 0)
    return min(whole, trainer.max_steps) if trainer.max_steps != -1 else whole


def whole_training(trainer: L.Trainer) -> float:
    """Optimiser steps in the whole training, those of the runs that this one goes on with included."""
    task = getattr(trainer, "lightning_module", None)
    return getattr(task, "total_steps", None) or trainer.estimated_stepping_batches
