"""Moments of a run from which another one can go on exactly."""

from __future__ import annotations

from typing import Protocol, cast

import lightning as L


class _Counts(Protocol):
    ready: int
    started: int
    completed: int


def between_steps(trainer: L.Trainer) -> bool:
    """Whether no training batch is under way and no gradients are accumulated."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    counts = cast(_Counts, progress.current)
    ended_epoch = progress.is_last_batch and counts.ready == counts.completed  # Lightning steps after the last batch
    whole = counts.completed % trainer.accumulate_grad_batches == 0 or ended_epoch
    return counts.started == counts.completed and whole
