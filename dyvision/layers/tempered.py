"""Layers with a softmax temperature that training may lower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyvision.layers.arguments import check_temperature


class Tempered(nn.Module):
    """A layer with a temperature T: a persistent 0-dim buffer, by which it divides the logits of its coefficients.

    A subclass calls ``keep_temperature`` when it is built and returns to the initial one when it is reset.
    """

    temperature: Tensor
    initial_temperature: float

    def keep_temperature(self, initial: float, device: torch.device | str | None = None) -> None:
        """Register T.

        Raises:
            ValueError: If it is not positive.
        """
        check_temperature(initial)
        self.initial_temperature = float(initial)
        # float32 whatever the parameters' type; a buffer, so that annealing does not recompile a compiled model
        self.register_buffer("temperature", torch.ones((), device=device))
        self.set_temperature(self.initial_temperature)

    def set_temperature(self, value: float) -> None:
        """Set T.

        Raises:
            ValueError: If it is not positive.
        """
        check_temperature(value)
        self.temperature.fill_(value)
