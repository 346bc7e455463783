"""An exponential moving average of the weights, used wherever the model is evaluated or saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dyvision.arguments import check_number

#: where a checkpoint has the weights being trained and the counters
_KEY = "ema"


class EMA(Callback):
    """Averages the weights after every optimiser step and evaluates the average.

    Validation during training uses the average; checkpoints have it as ``state_dict`` (what was evaluated is what
    ``load_from_checkpoint`` gives) and the weights being trained beside it, so that a run resumes exactly; after
    training the model has the average. Early on the decay is ``(1 + n) / (10 + n)`` after n updates where that is
    lower, so that the average is not dominated by the initialisation. Scalars (a temperature, BatchNorm's counter) are
    copied.

    Unlike Lightning's ``EMAWeightAveraging`` it works with a network that is built in ``setup``.

    Args:
        decay: Weight of the past at each step, in (0, 1).

    Attributes:
        updates: How often the average was updated.

    Raises:
        ValueError: If the decay is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        check_number("ema_decay", decay, above=0, below=1)
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None
        self._restored = False
        self.updates = 0
        self._step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the current weights, unless a checkpoint brought an average."""
        weights = pl_module.state_dict()
        if self._restored:
            self._average = {name: value.to(weights[name]) for name, value in self._average.items()}
        else:
            self._average = _clone(weights)
            self.updates, self._step = 0, trainer.global_step
        self._raw = None
        self._restored = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average if the optimiser has made a step."""
        self._update(trainer, pl_module)

    @torch.no_grad()
    def _update(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for name, value in module.state_dict().items():
            if value.is_floating_point() and value.ndim:
                averaged.append(self._average[name])
                current.append(value)
            else:
                self._average[name].copy_(value)
        get_ema_multi_avg_fn(decay)(averaged, current, self.updates)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average into the model."""
        if trainer.state.fn == "fit":
            self._swap_in(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go back to the weights being trained."""
        if trainer.state.fn == "fit" and self._raw is not None:
            _assign(pl_module, self._raw)
            self._raw = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the model."""
        self._swap_in(pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the weights, and the weights being trained beside them."""
        if self._average and _KEY not in checkpoint:
            if self._raw is None:
                # a callback that saves after a step may come before this one
                self._update(trainer, pl_module)
            raw = checkpoint["state_dict"] if self._raw is None else self._raw
            checkpoint[_KEY] = {"raw_state_dict": raw, "updates": self.updates, "step": self._step}
            checkpoint["state_dict"] = dict(self._average)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """When resuming: the average from the weights of the checkpoint, the model from those beside them."""
        if trainer.state.fn == "fit":
            self._average = _clone(checkpoint["state_dict"])
            self._restored = True
            self.updates, self._step = 0, checkpoint["global_step"]
            if _KEY in checkpoint:
                saved = checkpoint[_KEY]
                self.updates, self._step = saved["updates"], saved["step"]
                pl_module.load_state_dict(saved["raw_state_dict"])

    def _swap_in(self, module: L.LightningModule) -> None:
        if self._raw is None:
            self._raw = _clone(module.state_dict())
            _assign(module, self._average)


def _clone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


@torch.no_grad()
def _assign(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        value.copy_(weights[name])
