"""Networks whose last step decides: which boxes are kept, which class it is.

A decision turns into another one where two scores are equal up to rounding, so outputs of two programs that compute the
same need not be close. What comes before it is, and whether decisions follow from that can be said exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class DecidingNetwork(nn.Module):
    """A network in two steps, numbers and decisions, that :func:`dyvision.export.export_onnx` checks in two steps.

    A subclass has ``dense``, a module that takes images ``[B, C, H, W]`` and returns tensors by name, and both methods.

    Attributes:
        outputs: Names of the outputs, in order.
    """

    dense: nn.Module
    outputs: tuple[str, ...]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Decide about images ``[B, C, H, W]``."""
        return self.decide(self.dense(images))

    def decide(self, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From the numbers to the outputs."""
        raise NotImplementedError

    def disagreement(self, dense: Mapping[str, Tensor], decided: Mapping[str, Tensor], slack: float) -> float:
        """How far given outputs are from following from the numbers.

        Args:
            dense: Outputs of ``dense``.
            decided: Outputs of another program.
            slack: Relative difference by which numbers of that program may differ.

        Returns:
            The largest relative difference from the numbers; infinite for another decision.
        """
        raise NotImplementedError


class WithNumbers(nn.Module):
    """A deciding network that also returns the numbers, behind the decisions."""

    def __init__(self, network: DecidingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Outputs by name, and ``dense``."""
        dense = self.network.dense(images)
        return {**self.network.decide(dense), "dense": dense}
