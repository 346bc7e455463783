"""Softmax temperatures lowered during training, without which DyConv is worse than a static convolution."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import nn

from dyvision.arguments import check_number
from dyvision.tasks.training_length import whole_training


class TemperatureAnnealing(Callback):
    """Lowers the temperature of every layer that has one, linearly and step by step.

    DyConv (Chen et al. 2020, arXiv 1912.03458, section 3.3): from 30 to 1 over the first 10 epochs, then 1. A flat
    softmax lets all kernels learn first; for MobileNetV2 x0.5 on ImageNet the paper gives 64.8 % without, 69.9 % with
    it. Layers are found by their method ``set_temperature``; without any the callback does nothing.

    Args:
        start: Temperature of the first step.
        end: Temperature at the end of the annealing and thereafter.
        epochs: Length of the annealing. By default the paper's 10 epochs, but at most half of the training.
        fraction: Length as a fraction of all steps, instead of ``epochs``.

    Raises:
        ValueError: If an argument is out of range, or both lengths are given.
    """

    def __init__(
        self, start: float = 30.0, end: float = 1.0, epochs: float | None = None, fraction: float | None = None
    ) -> None:
        super().__init__()
        what = "anneal_temperature: {}"
        check_number(what.format("start"), start, above=0, maximum=1e6)
        check_number(what.format("end"), end, above=0, maximum=1e6)
        check_number(what.format("epochs"), epochs, above=0, allow_none=True)
        check_number(what.format("fraction"), fraction, above=0, maximum=1, allow_none=True)
        if epochs is not None and fraction is not None:
            raise ValueError("anneal_temperature takes epochs or fraction, not both")
        self.start = start
        self.end = end
        self.epochs = epochs
        self.fraction = fraction
        self._layers: list[Any] = []
        self._current: float | None = None

    def temperature(self, progress: float) -> float:
        """The temperature at a point of the annealing, 0 to 1 (and beyond)."""
        return self.start + (self.end - self.start) * min(1.0, progress)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the layers."""
        self._layers = find_temperature_layers(pl_module)
        self._current = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the temperature of this step."""
        if not self._layers:
            return
        value = self.temperature(self._progress(trainer, batch_idx))
        if value != self._current:
            for layer in self._layers:
                layer.set_temperature(value)
            self._current = value

    def _progress(self, trainer: L.Trainer, batch_idx: int) -> float:
        # an unknown number of batches counts as infinite: the temperature then changes from epoch to epoch
        epoch = trainer.current_epoch + batch_idx / trainer.num_training_batches
        if self.epochs is not None:
            return epoch / self.epochs
        training = trainer.global_step / whole_training(trainer)
        if self.fraction is not None:
            return training / self.fraction
        return max(epoch / 10, training / 0.5)


def find_temperature_layers(module: nn.Module) -> list[nn.Module]:
    """All modules with a ``set_temperature`` method."""
    return [child for child in module.modules() if callable(getattr(child, "set_temperature", None))]
