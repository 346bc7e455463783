"""Layers whose branch and convolution are one call at inference, where there is code for it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyvision.layers._branch import CoefficientBranch, PreciseLinear, owner
from dyvision.layers.bank import BankedConv2d
from dyvision.layers.ordinary import is_ordinary
from dyvision.ops.modes import is_traced
from dyvision.ops.native import Gates
from dyvision.ops.predicted import predicted_conv2d


class PredictsGates(BankedConv2d, abstract=True):
    """Base of layers whose coefficients are softmaxes and sigmoids of what their branch's perceptron predicts."""

    #: The branch about which :meth:`gates` speaks; with one of another class, coefficients are asked for.
    branch_type: type[CoefficientBranch]
    applies_activation = True
    #: Whether what ``gates`` says is about this class's ``coefficients``.
    _coefficients_are_gates: bool = False
    weight: Tensor
    branch: Any

    def __init_subclass__(cls, abstract: bool = False, **kwargs: object) -> None:
        super().__init_subclass__(abstract, **kwargs)
        cls._coefficients_are_gates = issubclass(owner(cls, "gates"), owner(cls, "coefficients"))

    def gates(self) -> Gates | None:
        """What the numbers that the branch's perceptron predicts are; None if they have to be asked for.

        A subclass with ``coefficients`` of its own is not asked, unless it has ``gates`` of its own as well.
        """
        return None

    def convolve_at_once(self, x: Tensor) -> Tensor | None:
        """Predict, mix and convolve in one call; None where the branch has to be called."""
        branch = self.branch
        # what a compiler cannot ask stands behind this question
        if is_traced() or not self._coefficients_are_gates or "coefficients" in vars(self):
            return None
        if self.padding_mode != "zeros" or self.ranks is not None or not is_ordinary(branch, self.branch_type):
            return None
        gates, layers = self.gates(), branch.perceptron()
        if gates is None or layers is None:
            return None
        # a hook expects to be called, and a layer of another class computes what it likes
        if not all(layer is None or is_ordinary(layer, PreciseLinear) for layer in layers):
            return None
        arguments = (self.stride, self.padding, self.dilation, self.groups)
        return predicted_conv2d(x, self.weight, self.bias, *layers, gates, arguments, self.fused_activation)
