"""The coefficients of layers, averaged over all samples of a calibration set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.layers import DynamicConv2d
from dyvision.text import some


def average_coefficients(model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Any]) -> dict[str, Any]:
    """Average what the branches predict, or what the blocks' shared branches hand over.

    Args:
        model: In evaluation mode.
        layers: Its dynamic layers by name.
        batches: What it is called with.

    Returns:
        Coefficients with a batch axis of 1 by the name of the layer, as its ``forward`` takes them.

    Raises:
        ValueError: If a layer is not called.
    """
    sums: dict[nn.Module, tuple[int, Any]] = {}

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, DynamicConv2d)
        x = args[0] if args else kwargs["x"]
        given = args[1] if len(args) > 1 else kwargs.get("coefficients")
        x = x.unsqueeze(0) if x.ndim == 3 else x
        if not x.numel():
            return
        count, total = sums.get(layer, (0, None))
        sums[layer] = (count + x.shape[0], _add(total, layer.coefficients(x) if given is None else given))

    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers.values()]
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    uncalled = [name for name, layer in layers.items() if layer not in sums]
    if uncalled:
        raise ValueError(f"{some(uncalled, 3)} are not called for the calibration set: there is nothing to average")
    return {name: _divide(sums[layer][1], sums[layer][0]) for name, layer in layers.items()}


def _add(total: Any, values: Any) -> Any:
    """Add up the samples of tensors, and of named tuples of them; None stays None."""
    if values is None:
        return None
    if isinstance(values, Tensor):
        # in double precision: a calibration set may have many thousands of samples
        summed = values.to(torch.float64 if values.device.type != "mps" else torch.float32).sum(0, keepdim=True)
        return (values.dtype, summed) if total is None else (values.dtype, total[1] + summed)
    parts = [None] * len(values) if total is None else total
    return type(values)(*(_add(part, value) for part, value in zip(parts, values, strict=True)))


def _divide(total: Any, count: int) -> Any:
    if total is None:
        return None
    if type(total) is tuple:
        dtype, summed = total
        return (summed / count).to(dtype)
    return type(total)(*(_divide(part, count) for part in total))
