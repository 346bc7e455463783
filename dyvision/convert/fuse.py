"""BatchNorm folded into the convolutions before it, static and dynamic, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyvision.convert._refusals import check_is_plain
from dyvision.layers import DynamicConv2d
from dyvision.layers.norm import absorb, affine

#: largest relative difference of the outputs that folding may make, in float64
_TOLERANCE = 1e-6


def fuse(model: nn.Module, input_size: Sequence[int] = (1, 3, 64, 64)) -> nn.Module:
    """Fold every BatchNorm into the convolution whose output it normalises.

    Which one that is, is seen in a forward pass. Static convolutions, CondConv (without bias), DyConv, DyNet, ODConv
    and DCD layers take it in; where a BatchNorm cannot be folded, it stays.

    Args:
        model: A network in evaluation mode; it is not changed.
        input_size: Shape of a batch that the network accepts.

    Returns:
        A copy for inference, whose outputs are those of ``model`` up to rounding.

    Raises:
        TypeError: If ``input_size`` is a tensor instead of its shape.
        ValueError: If the network is in training mode, or its outputs would change.

    Example:
        >>> import dyvision
        >>> model = dyvision.fuse(dyvision.create_model("mobilenetv2_035", layer="dyconv").eval())
    """
    check_is_plain(model, "fuse")
    if isinstance(input_size, Tensor):
        raise TypeError(f"fuse takes the shape of a batch: fuse(model, {tuple(input_size.shape)})")
    if model.training:
        raise ValueError("fuse folds the running statistics of BatchNorm: call model.eval() first")
    example = torch.randn(tuple(input_size), device=next(model.parameters()).device, dtype=torch.float64)
    with torch.no_grad():
        # in float64: the rounding errors of some networks with random weights are larger than a wrong fold's effect
        checked = copy.deepcopy(model).double()
        expected, pairs = _trace(checked, example)
        if not all(bool(one.isfinite().all()) for one in _tensors(expected)):
            raise ValueError(
                "fuse compares outputs for random numbers, and those of this network are not finite: weights or "
                "statistics of norms let it overflow"
            )
        found = _fold_all(checked, pairs)(example)
        for one, other in zip(_tensors(expected), _tensors(found), strict=True):
            if not (one - other).abs().max() <= _TOLERANCE * one.abs().max():
                raise ValueError("fuse would change the outputs: a convolution is used in more than one place")
        return _fold_all(copy.deepcopy(model), pairs)


def normed_convs(model: nn.Module, example: object) -> list[tuple[str, str]]:
    """Names of convolutions, dynamic ones included, and of the BatchNorms that receive their output and nothing else.

    Args:
        model: In evaluation mode.
        example: What it is called with, once.
    """
    return _trace(model, example)[1]


def _fold_all(model: nn.Module, pairs: Sequence[tuple[str, str]]) -> nn.Module:
    """Fold in place; ``pairs`` are names of a convolution and of its BatchNorm."""
    for name, norm_name in pairs:
        conv, norm = model.get_submodule(name), model.get_submodule(norm_name)
        if isinstance(norm, nn.BatchNorm2d) and _fold(conv, norm):
            model.set_submodule(norm_name, _activation(norm))
    for layer in list(model.modules()):
        if isinstance(layer, DynamicConv2d) and not layer.fused:
            layer.fuse_branch()
            layer.fused = True
    return model


def _trace(model: nn.Module, example: object) -> tuple[object, list[tuple[str, str]]]:
    """Output, and names of convolutions and of BatchNorms that receive theirs and nothing else, both called once."""
    made: dict[int, nn.Module] = {}
    kept: list[Tensor] = []  # so that no other tensor takes the place of one that is gone
    found: list[tuple[nn.Module, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.BatchNorm2d):
            if id(inputs[0]) in made:
                found.append((made[id(inputs[0])], module))
        else:
            made[id(output)] = module
            kept.append(output)

    inside = {child for layer in model.modules() if isinstance(layer, DynamicConv2d) for child in layer.modules()}
    inside -= {layer for layer in model.modules() if isinstance(layer, DynamicConv2d)}
    kinds = (nn.Conv2d, DynamicConv2d, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(after) for m in model.modules() if isinstance(m, kinds) and m not in inside]
    try:
        output = model(example)
    finally:
        for hook in hooks:
            hook.remove()
    names = {module: name for name, module in model.named_modules()}
    return output, [(names[conv], names[norm]) for conv, norm in found if calls[conv] == calls[norm] == 1]


def _fold(conv: nn.Module, norm: nn.BatchNorm2d) -> bool:
    if not norm.track_running_stats or norm.weight is None or norm.training:
        return False
    factor, shift = affine(norm, norm.weight.dtype)
    if isinstance(conv, DynamicConv2d):
        return conv.fold_affine(factor, shift)
    absorb(conv, factor, shift)
    return True


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    """What remains of timm's BatchNorm with an activation."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    assert isinstance(parts, Sequence) or hasattr(parts, "__iter__")
    return [tensor for part in parts for tensor in _tensors(part)]
