"""A limit on the memory and the length of building a network that hyperparameters of any origin describe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

# the only place where an allocation is seen whatever asks for it: a factory, a copy, a layer's own code
from torch.utils._python_dispatch import TorchDispatchMode

from dyvision.text import one_line, printable

#: building needs the weights several times over (a static layer, then its dynamic one, random numbers for both)
_COPIES = 8
#: and some room for networks with hardly any weights: anchors, confusion matrices, images of zeros
_ROOM = 2**26
#: operations; large networks (DenseNet-201, ResNet-152) with every convolution dynamic need some 12,000
_STEPS = 100_000


@contextmanager
def building_from(where: str, what: str, stored: int | None = None) -> Iterator[None]:
    """Build what the hyperparameters of a file describe; whatever goes wrong is one line that names the file.

    Args:
        where: The file, for messages.
        what: What is built, as ``network``.
        stored: Number of the file's weights, which limits memory and length; None for no limit.

    Raises:
        ValueError: If an argument is wrong, or of a type that its class cannot take.
    """
    try:
        with nullcontext() if stored is None else LimitedMemory(stored, where):
            yield
    except ValueError as error:
        raise error if where in str(error) else ValueError(f"{where}: {error}") from error
    except (OSError, ImportError):
        raise
    except Exception as error:  # values of the wrong type fail anywhere on the way
        reason = printable(one_line(error)[:300])
        raise ValueError(
            f"{where}: no {what} can be built from its hyperparameters ({type(error).__name__}: {reason})"
        ) from error


class LimitedMemory(TorchDispatchMode):
    """Refuses to allocate more than a multiple of a checkpoint's weights while its network is built.

    A checkpoint of a megabyte may ask for a convolution of 10^12 weights, or for 100,000 copies of a layer; building it
    would end the process (or the machine), or never end, before its weights are compared.

    Args:
        stored: Number of the checkpoint's weights.
        where: The checkpoint, for the message.
    """

    def __init__(self, stored: int, where: str) -> None:
        super().__init__()
        self.left = _ROOM + _COPIES * stored
        self.steps = _STEPS
        self.stored, self.where = stored, where

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count the memory of every result that is not memory of an argument.

        Raises:
            ValueError: If it is more than the limit; where sizes are given, before anything is allocated.
        """
        kwargs = kwargs or {}
        given = [*_tensors(args), *_tensors(kwargs.values())]
        self.steps -= 1
        if self.steps < 0 or _asked(func, args, kwargs, bool(given)) > self.left:
            self._refuse()
        result = func(*args, **kwargs)
        known = {None, *map(_storage, given)}
        self.left -= sum(tensor.numel() for tensor in _tensors((result,)) if _storage(tensor) not in known)
        if self.left < 0:
            self._refuse()
        return result

    def _refuse(self) -> None:
        raise ValueError(
            f"{self.where}: its hyperparameters describe a network far larger than its {self.stored:,} weights"
        )


def _asked(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], has_tensors: bool) -> int:
    """Values that an operation makes from sizes alone (``zeros``, ``new_empty``, ``arange``); 0 for any other."""
    name = func.name()
    repeats = name.startswith("aten::repeat")
    if (has_tensors and not repeats and not name.startswith("aten::new_")) or str(kwargs.get("device")) == "meta":
        return 0
    lists = [value for value in (*args, *kwargs.values()) if isinstance(value, list | tuple)]
    if lists or has_tensors:
        return max(map(_product, lists), default=0) * (args[0].numel() if repeats else 1)
    numbers = [value for value in args if type(value) in (int, float) and math.isfinite(value)]
    if name.startswith("aten::arange") and numbers:
        start, end, step = (0, numbers[0], 1) if len(numbers) == 1 else (*numbers, 1)[:3]
        return int(abs((end - start) / step)) if step else 0
    if name.startswith(("aten::eye", "aten::tri")):
        return _product([int(value) for value in (numbers * 2)[:2]])
    return int(max(map(abs, numbers), default=0))  # linspace, randperm, windows: numbers of values, or bounds of them


def _product(sizes: Any) -> int:
    return math.prod(max(0, size) for size in sizes) if all(isinstance(size, int) for size in sizes) else 0


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


def _storage(tensor: Tensor) -> int | None:
    """Address of a tensor's memory; None if it has none of its own (on the meta device, sparse)."""
    if tensor.layout != torch.strided or tensor.untyped_storage().device.type == "meta":
        return None
    return tensor.untyped_storage().data_ptr()
