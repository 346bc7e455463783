"""The attention of KernelWarehouse: signed coefficients of the cells of a warehouse, one set per piece of a kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dyvision.layers._branch import CoefficientBranch, PreciseLinear
from dyvision.layers._initialise import FAN_OUT, reset_children
from dyvision.layers.norm import GuardedBatchNorm1d, apply_norm

#: added to ``sum |z|``
EPSILON = 1e-3
#: smallest hidden layer of the attention, and smallest basis of the cells that belong to other layers
SMALLEST = 16
NORMS: dict[str, type[nn.Module]] = {"batchnorm": GuardedBatchNorm1d, "layernorm": nn.LayerNorm}


class CellAttention(CoefficientBranch):
    """Coefficients ``z / (sum_j |z_j| + 1e-3)`` with ``z = W2 ReLU(norm(W1 GAP(x))) + b2``, N + 1 for each mixture.

    Args:
        in_channels: Channels of the layer's input.
        hidden: Width of the hidden layer.
        num_mixtures: Pieces m of the layer's kernel.
        num_cells: Cells N of the warehouse.
        norm_layer: Name in :data:`NORMS`; with ``"layernorm"`` W1 has a bias.
        own: First and number of the cells that get a coefficient from W2 each; the others get theirs through a basis.
            None for all.
        basis: Size of that basis.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        num_mixtures: int,
        num_cells: int,
        norm_layer: str,
        own: tuple[int, int] | None = None,
        basis: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_mixtures, self.num_cells, self.basis = num_mixtures, num_cells, basis
        self.start, self.local = (0, num_cells) if own is None else own
        self.fc1 = PreciseLinear(in_channels, hidden, bias=norm_layer == "layernorm", initializer=FAN_OUT, **dd)
        self.norm = NORMS[norm_layer](hidden, **dd)
        per_mixture = self.local + basis + 1
        self.fc2 = PreciseLinear(hidden, num_mixtures * per_mixture, bias=own is None, initializer=FAN_OUT, **dd)
        self.fc3: PreciseLinear | None = None
        self.basis_bias: nn.Parameter | None = None
        if own is not None:
            self.fc3 = PreciseLinear(basis, num_cells - self.local, bias=False, initializer=FAN_OUT, **dd)
            self.basis_bias = nn.Parameter(torch.empty(num_mixtures * (num_cells + 1), **dd))
        self.reset_parameters()

    @property
    def logit_bias(self) -> Tensor:
        """The bias of all logits, ``[m * (N + 1)]``."""
        return self.fc2.bias if self.basis_bias is None else self.basis_bias

    def reset_parameters(self) -> None:
        """Kaiming-normal (fan out), biases 0."""
        reset_children(self)
        nn.init.zeros_(self.logit_bias)

    def predict(self, pooled: Tensor) -> Tensor:
        """Map ``[B, C_in]`` to ``[B, m, N + 1]``; the last is the cell of zeros."""
        hidden = self.fc1(pooled)
        hidden = torch.relu(apply_norm(self.norm, hidden))
        logits = self.fc2(hidden).unflatten(1, (self.num_mixtures, -1))
        if self.fc3 is not None and self.basis_bias is not None:
            own, basis, zero = logits.split([self.local, self.basis, 1], 2)
            others = self.fc3(basis)
            logits = torch.cat([others[..., : self.start], own, others[..., self.start :], zero], 2)
            logits = logits + self.basis_bias.to(logits.dtype).view(self.num_mixtures, -1)
        return logits / (logits.abs().sum(2, keepdim=True) + EPSILON)
