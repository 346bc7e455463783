"""The branch that predicts coefficients: always in at least float32."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dyvision.layers._boundary import record_call, refuse_script
from dyvision.layers._initialise import InitialisedLinear, Initializer
from dyvision.layers.ordinary import is_ordinary
from dyvision.ops.autocast import autocasts, without_autocast
from dyvision.ops.modes import is_exporting, is_traced
from dyvision.ops.perceptron import pooled_perceptron


class CoefficientBranch(nn.Module):
    """Base of every module whose parameters predict coefficients.

    ``forward`` pools the map and calls :meth:`predict` outside autocast, in float32 (or float64): a softmax or a
    sigmoid in half precision is where dynamic networks diverge. Its parameters get no weight decay.
    """

    #: side of the pooled map
    pool_size: int = 1
    #: whether a sigmoid follows the perceptron, before :meth:`finish`
    squashes: bool = False
    #: whether what ``perceptron`` says is about this class's ``predict``
    _begins_at_once: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        says = owner(cls, "perceptron")
        cls._begins_at_once = all(issubclass(says, owner(cls, name)) for name in ("predict", "_pool"))

    def forward(self, x: Tensor) -> Any:
        """Predict the coefficients of ``x [B, C, H, W]``."""
        if isinstance(x, fx.Proxy):
            return record_call(self, x)
        if self._begins_at_once and (found := self._begin_at_once(x)) is not None:
            return self.finish(found)
        if autocasts(x.device):  # entering a context takes as long as a small product
            with without_autocast(x.device):
                return self.predict(self._pool(x))
        return self.predict(self._pool(x))

    @abstractmethod
    def predict(self, pooled: Tensor) -> Any:
        """Predict coefficients from ``pooled [B, C * pool_size**2]``, float32 or float64."""

    def perceptron(self) -> tuple[PreciseLinear | None, PreciseLinear] | None:
        """The layers with which :meth:`predict` begins: linear, ReLU, linear, or None and one linear layer.

        Where :meth:`finish` does the rest, pooling and layers can be one call. None if it begins otherwise. A subclass
        with a ``predict`` or a ``_pool`` of its own is not asked, unless it has a ``perceptron`` of its own as well.
        """
        return None

    def finish(self, predicted: Tensor) -> Any:
        """What :meth:`predict` makes of the output of its :meth:`perceptron`, behind the sigmoid if there is one."""
        return predicted

    def prepare_inference(self) -> None:
        """Rearrange parameters, in place, so that coefficients lie in memory as native kernels read them."""

    def start_constant(self) -> None:
        """Predict the same coefficients for every input, those under which ``load_static`` preserves outputs.

        Only branches that several layers share have to implement it: a layer's own branch is set by ``load_static``.
        """
        raise TypeError(f"{type(self).__name__} belongs to one layer and is set by its load_static")

    def _begin_at_once(self, x: Tensor) -> Tensor | None:
        """Pool and call the perceptron in one call; None where its layers have to be called."""
        # what a compiler cannot ask stands behind this question
        layers = self.perceptron() if self.pool_size == 1 and not is_traced() else None
        # a hook expects to be called, and a layer of another class computes what it likes
        if layers is None or not all(layer is None or is_ordinary(layer, PreciseLinear) for layer in layers):
            return None
        return pooled_perceptron(x, *layers, sigmoid=self.squashes)

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool_size == 1 and x.dtype == torch.float32:
            if torch.is_grad_enabled() and not is_traced():
                # the same numbers, and a gradient that is one number per channel, where a mean's is written as a map
                return x.sum((2, 3)) / (x.shape[2] * x.shape[3])
            return x.mean((2, 3))
        dtype = torch.promote_types(x.dtype, torch.float32)
        if self.pool_size == 1:
            return x.mean((2, 3), dtype=dtype)
        return pool_to(x.to(dtype), (self.pool_size, self.pool_size)).flatten(1)

    def __prepare_scriptable__(self) -> None:
        refuse_script(self)


def owner(cls: type, name: str) -> type:
    """The class from which a class has a method."""
    return next(base for base in cls.__mro__ if name in vars(base))


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
    # as products, not as slices: that a window lies in the map for any size is more than an exporter can prove
    rows, columns = (_windows(x.shape[axis], count, x) for axis, count in zip((2, 3), size, strict=True))
    return rows @ x @ columns.t()


def _windows(length: int, count: int, like: Tensor) -> Tensor:
    """The means over an axis of this length as a matrix ``[count, length]``."""
    # window i of an axis goes from floor(i L / n) to ceil((i + 1) L / n); ONNX divides negative numbers differently
    numbers, places = torch.arange(count, device=like.device)[:, None], torch.arange(length, device=like.device)
    first, end = numbers * length // count, ((numbers + 1) * length + count - 1) // count
    return ((places >= first) & (places < end)).to(like.dtype) / (end - first).to(like.dtype)


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


class LinearBranch(CoefficientBranch):
    """Base of a branch that is one linear layer, and gives all layers of a block the same coefficients.

    A subclass says how the weight starts and what comes behind the layer.

    Args:
        in_channels: Channels of the input it pools.
        count: How many numbers it predicts.
        num_layers: Return a tuple with one entry per layer; None returns the tensor itself.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    #: sets the weight; the bias starts at 0
    initializer: Initializer

    def __init__(
        self,
        in_channels: int,
        count: int,
        num_layers: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.fc = PreciseLinear(in_channels, count, device=device, dtype=dtype, initializer=type(self).initializer)

    def reset_parameters(self) -> None:
        """The weight by ``initializer``, the bias 0."""
        self.fc.reset_parameters()

    def start_constant(self) -> None:
        """Predict the same for every input: what the activation makes of 0."""
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def predict(self, pooled: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map ``[B, C]`` to ``[B, count]``, once per layer if there are several."""
        return self.finish(self.fc(pooled))

    def perceptron(self) -> tuple[None, PreciseLinear]:
        """See the base class."""
        return None, self.fc

    def finish(self, predicted: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Activate; one entry per layer."""
        predicted = self.activate(predicted)
        return predicted if self.num_layers is None else (predicted,) * self.num_layers

    @abstractmethod
    def activate(self, predicted: Tensor) -> Tensor:
        """What comes behind the linear layer."""
