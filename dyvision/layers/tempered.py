"""Layers with a softmax temperature that training may lower."""

from __future__ import annotations

from torch import Tensor, nn

from dyvision.layers.arguments import check_temperature


class Tempered(nn.Module):
    """A layer with a temperature T: a persistent 0-dim buffer, by which it divides the logits of its coefficients.

    A subclass registers the buffer ``temperature``.
    """

    temperature: Tensor

    def set_temperature(self, value: float) -> None:
        """Set T.

        Raises:
            ValueError: If it is not positive.
        """
        check_temperature(value)
        self.temperature.fill_(value)
