"""What a formulation says about itself: the one place that the planner, autograd, tiling and the fast path ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture
from dyvision.ops.problem import Problem
from dyvision.ops.work import Work

Gradients = tuple[Tensor | None, Tensor | None]
#: of input, kernels, coefficients and taps
GradientsOfMixture = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
Forward = Callable[[Tensor, Tensor, Geometry, "Tensor | None"], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor, Geometry, list[bool]], Gradients]
BackwardOfMixture = Callable[[Tensor, Tensor, Mixture, Geometry, list[bool]], GradientsOfMixture]
ForwardOfMixture = Callable[[Tensor, Mixture, Geometry, "Tensor | None"], Tensor]
#: ``(input [B, C_in, H, W], weight of any shape with the kernels' numbers, bias [C_out] or [B, C_out])``
Convolve = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
#: ``(input, kernels, coefficients, bias as mixture_conv2d takes it, taps)``
ConvolveMixture = Callable[[Tensor, Tensor, Tensor, "Tensor | None", "Tensor | None"], Tensor]


def _refuse(input: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None) -> Tensor:
    raise ValueError("this formulation computes mixtures only; ask whether it applies first")


@dataclass(frozen=True)
class Formulation:
    """One way to compute a convolution with one kernel per sample; all agree to rounding.

    Its functions take ``input [B, C_in, H, W]`` and ``weight [B, C_out, C_in/groups, kH, kW]`` of one type.

    Attributes:
        name: By which it is planned and forced.
        applies: Whether it can compute a problem.
        rank: Its place where no time is known, the smallest first: on a device that was not measured, and in what a
            compiler makes for any batch.
        forward: ``(input, weight, geometry, bias)`` with kernels that are given. A ``bias [B, C_out]`` may be added in
            place, which autograd would not see.
        forward_of_mixture: ``(input, mixture, geometry, bias)``, if it does better than to mix the kernels first.
        backward: ``(grad, input, weight, geometry, mask)``, the gradients of input and weight that the mask asks for,
            from the inputs alone: nothing of the size of the unfolded input or of the kernels has to be kept. None if
            autograd differentiates the forward pass.
        backward_of_mixture: ``(grad, input, mixture, geometry, mask)``, if it does better than to go through the mixed
            kernels.
        stands_in: The formulation whose operations second derivatives are recorded of, if its own leave no record.
        work: What a pass does, from which the cost model estimates its time; None if only its rank or a measurement can
            choose it.
        leads: Whether it is faster than all others, where it applies, on any machine; None if that has to be estimated.
        whole: Whether its passes are planned together, with no other formulation for one of them.
        any_batch: Whether a compiler can trace it where the batch is dynamic.
        row_by_row: Whether it multiplies kernels as matrices by the input's columns, so that tiling can go through the
            output channels.
        adds_bias: Whether it takes the bias, of shape ``[C_out]`` as well, where operations are recorded, which is
            where nothing may be added in place.
        straight: ``(batch, size, kernel_shape, geometry)`` to code for inference in which all these are constants, or
            None for a case that is not common enough.
        straight_of_mixture: ``(input, mixture, bias, geometry)``, of any tensors of the call's shapes, to such code for
            mixtures, if it does better than to mix the kernels first.
    """

    name: str
    applies: Callable[[Problem], bool]
    rank: Callable[[Problem], int]
    forward: Forward = _refuse
    forward_of_mixture: ForwardOfMixture | None = None
    backward: Backward | None = None
    backward_of_mixture: BackwardOfMixture | None = None
    stands_in: Formulation | None = None
    work: Callable[[Problem], Work] | None = None
    leads: Callable[[Problem], bool] | None = None
    whole: bool = False
    any_batch: bool = False
    row_by_row: bool = False
    adds_bias: bool = False
    straight: Callable[[int, Sequence[int], Sequence[int], Geometry], Convolve | None] | None = None
    straight_of_mixture: Callable[[Tensor, Mixture, Tensor | None, Geometry], ConvolveMixture | None] | None = None

    @property
    def separable(self) -> bool:
        """Whether another formulation may compute the other pass."""
        return self.backward is not None and not self.whole

    @property
    def recorded(self) -> Formulation:
        """The formulation whose forward pass autograd can record in place of this one's: itself, or another."""
        return self if self.stands_in is None else self.stands_in

    def convolve_mixture(
        self, input: Tensor, mixture: Mixture, geometry: Geometry, bias: Tensor | None = None
    ) -> Tensor:
        """Convolve each sample with its mixture, all of them at once."""
        if self.forward_of_mixture is not None:
            return self.forward_of_mixture(input, mixture, geometry, bias)
        return self.forward(input, mixture.mix().to(input.dtype), geometry, bias)

    def gradients(self, grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Gradients:
        """Call :attr:`backward`, which is there wherever an autograd function asks."""
        assert self.backward is not None
        return self.backward(grad, input, weight, geometry, mask)
