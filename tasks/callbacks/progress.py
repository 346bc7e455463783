"""Layers whose function depends on how far training is: warehouses that open up, channels that are dropped."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from dyvision.arguments import check_number
from dyvision.tasks.training_length import whole_training


class TrainingProgress(Callback):
    """Tells layers, step by step, how far training is.

    Layers are found by their methods; without any the callback does nothing.

    * ``set_mixing`` (KernelWarehouse, Li and Yao 2024, arXiv 2406.07879, section 3.3): from 1, an ordinary convolution
      with the layer's own cells, linearly to 0.
    * ``set_progress`` (dynamic group convolution, Su et al. 2020, arXiv 2007.04242): the part of the training
      that is done; the layer knows its schedule.

    Args:
        mixing_epochs: Epochs until the mixing is 0. By default the official 20, but at most half of the training.

    Raises:
        ValueError: If ``mixing_epochs`` is not positive.
    """

    def __init__(self, mixing_epochs: float | None = None) -> None:
        super().__init__()
        check_number("mixing_epochs", mixing_epochs, above=0, allow_none=True)
        self.mixing_epochs = mixing_epochs
        self._mixing: list[Any] = []
        self._progress: list[Any] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the layers."""
        modules = list(pl_module.modules())
        self._mixing = [module for module in modules if callable(getattr(module, "set_mixing", None))]
        self._progress = [module for module in modules if callable(getattr(module, "set_progress", None))]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the values of this step."""
        if not (self._mixing or self._progress):
            return
        done = min(1.0, trainer.global_step / whole_training(trainer))
        epoch = trainer.current_epoch + batch_idx / trainer.num_training_batches
        opened = epoch / self.mixing_epochs if self.mixing_epochs else max(epoch / 20, done / 0.5)
        for layer in self._mixing:
            layer.set_mixing(1 - min(1.0, opened))
        for layer in self._progress:
            layer.set_progress(done)
