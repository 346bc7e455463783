"""The branch that predicts coefficients: always in at least float32."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dyvision.layers._boundary import record_call, refuse_script
from dyvision.layers._initialise import InitialisedLinear
from dyvision.ops.autocast import autocasts, without_autocast
from dyvision.ops.modes import is_exporting


class CoefficientBranch(nn.Module):
    """Base of every module whose parameters predict coefficients.

    ``forward`` pools the map and calls :meth:`predict` outside autocast, in float32 (or float64): a softmax or a
    sigmoid in half precision is where dynamic networks diverge. Its parameters get no weight decay.
    """

    #: side of the pooled map
    pool_size: int = 1

    def forward(self, x: Tensor) -> Any:
        """Predict the coefficients of ``x [B, C, H, W]``."""
        if isinstance(x, fx.Proxy):
            return record_call(self, x)
        if autocasts(x.device):  # entering a context takes as long as a small product
            with without_autocast(x.device):
                return self.predict(self._pool(x))
        return self.predict(self._pool(x))

    @abstractmethod
    def predict(self, pooled: Tensor) -> Any:
        """Predict coefficients from ``pooled [B, C * pool_size**2]``, float32 or float64."""

    def start_constant(self) -> None:
        """Predict the same coefficients for every input, those under which ``load_static`` preserves outputs.

        Only branches that several layers share have to implement it: a layer's own branch is set by ``load_static``.
        """
        raise TypeError(f"{type(self).__name__} belongs to one layer and is set by its load_static")

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool_size == 1 and x.dtype == torch.float32:
            return x.mean((2, 3))
        dtype = torch.promote_types(x.dtype, torch.float32)
        if self.pool_size == 1:
            return x.mean((2, 3), dtype=dtype)
        return pool_to(x.to(dtype), (self.pool_size, self.pool_size)).flatten(1)

    def __prepare_scriptable__(self) -> None:
        refuse_script(self)


def require_branch(layer: Any) -> CoefficientBranch:
    """Return a layer's own branch.

    Raises:
        ValueError: If it was built with ``branch=False``.
    """
    if layer.branch is None:
        raise ValueError(
            f"{type(layer).__name__} was built with branch=False: call it as layer(x, coefficients) with its entry "
            "of the block's shared branch"
        )
    return layer.branch


def pool_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d`` of ``x [B, C, H, W]`` that stays right at other sizes when it is exported."""
    if not is_exporting():
        return F.adaptive_avg_pool2d(x, size)
    for axis, count in zip((2, 3), size, strict=True):
        length = x.shape[axis]
        # window i of an axis goes from floor(i L / n) to ceil((i + 1) L / n); ONNX divides negative numbers differently
        windows = [(i * length // count, ((i + 1) * length + count - 1) // count) for i in range(count)]
        parts = [x[:, :, first:end] if axis == 2 else x[..., first:end] for first, end in windows]
        x = torch.cat([part.mean(axis, keepdim=True) for part in parts], axis)
    return x


class PreciseLinear(InitialisedLinear):
    """``nn.Linear`` that computes in its input's type, whatever the type of its parameters."""

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> PreciseLinear:
        """A layer with copies of ``weight [out_features, in_features]`` and ``bias [out_features]``."""
        linear = cls(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        return linear

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, in_features]`` to ``[B, out_features]``."""
        weight, bias = self.weight, self.bias
        if weight.dtype == input.dtype:
            return F.linear(input, weight, bias)
        return F.linear(input, weight.to(input.dtype), None if bias is None else bias.to(input.dtype))
