"""BatchNorm and activations folded into the convolutions before them, static and dynamic, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from dyvision.convert._refusals import check_is_plain
from dyvision.layers import CoefficientBranch, DynamicConv2d, StaticConv2d
from dyvision.layers.fused import FusedConv2d
from dyvision.layers.norm import absorb, affine
from dyvision.layers.ordinary import is_ordinary

#: largest relative difference of the outputs that folding may make, in float64
_TOLERANCE = 1e-6

#: activations that can be part of a convolution, by what native kernels call them
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}

#: names of a convolution, dynamic or not, and of what receives its output and nothing else
Pairs = Sequence[tuple[str, str]]


def fuse(model: nn.Module, input_size: Sequence[int] = (1, 3, 64, 64), native_static: bool = True) -> nn.Module:
    """Fold every BatchNorm, and then every ReLU and ReLU6, into the convolution behind which it stands.

    Which one that is, is seen in a forward pass. Static convolutions, CondConv (without bias), DyConv, DyNet, ODConv
    and DCD layers take them in; what cannot be folded, stays.

    Args:
        model: A network in evaluation mode; it is not changed.
        input_size: Shape of a batch that the network accepts.
        native_static: Let native kernels compute static convolutions, too, where they are faster than PyTorch's: 1x1
            ones and those in groups. False keeps ``nn.Conv2d``, as ``torch.jit.script`` needs it.

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
    # versions of tensors are looked at, and the copy may be trained
    with torch.inference_mode(False), torch.no_grad():
        example = torch.randn(tuple(input_size), device=next(model.parameters()).device, dtype=torch.float64)
        # in float64: the rounding errors of some networks with random weights are larger than a wrong fold's effect
        checked = copy.deepcopy(model).double()
        expected, found = _trace(checked, example, _is_norm)
        norms = _alone(found)
        if not all(bool(one.isfinite().all()) for one in _tensors(expected)):
            raise ValueError(
                "fuse compares outputs for random numbers, and those of this network are not finite: weights or "
                "statistics of norms let it overflow"
            )
        checked = _fold_norms(checked, norms)
        outputs, pairs = _trace(checked, example, _is_activation)
        if not _agree(outputs, expected):
            raise ValueError("fuse would change the outputs: a convolution is used in more than one place")
        activations = _without_other_readers(checked, example, expected, pairs)
        checked = _fold_activations(checked, activations, native_static)
        if not _agree(checked(example), expected):
            activations = []
        return _fold_activations(_fold_norms(copy.deepcopy(model), norms), activations, native_static)


def normed_convs(model: nn.Module, example: object) -> Pairs:
    """Names of convolutions, dynamic ones included, and of the BatchNorms that receive their output and nothing else.

    Args:
        model: In evaluation mode.
        example: What it is called with, once.
    """
    return _alone(_trace(model, example, _is_norm)[1])


def _alone(pairs: Pairs) -> Pairs:
    """Without those whose second receives the outputs of several."""
    return [(names[0], receiver) for receiver, names in _by_receiver(pairs).items() if len(names) == 1]


def _by_receiver(pairs: Pairs) -> dict[str, list[str]]:
    """The convolutions before each receiver."""
    before: dict[str, list[str]] = {}
    for name, receiver in pairs:
        before.setdefault(receiver, []).append(name)
    return before


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d)


def _is_activation(module: nn.Module) -> bool:
    return any(is_ordinary(module, kind) for kind in _ACTIVATIONS)


def _without_other_readers(model: nn.Module, example: Tensor, expected: object, pairs: Pairs) -> Pairs:
    """Without convolutions whose output something beside the activation reads.

    Whether numbers change in an activation depends on the example; so they are changed on the way to it, and back.
    """
    before = _by_receiver(pairs)

    def stays(activations: Sequence[str]) -> bool:
        hooks = []
        for activation in activations:
            module = model.get_submodule(activation)
            hooks.append(module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * -0.5, *inputs[1:])))
            for name in before[activation]:
                conv = model.get_submodule(name)
                hooks.append(conv.register_forward_hook(lambda _, __, output: output * -2))
        try:
            return _agree(model(example), expected)
        finally:
            for hook in hooks:
                hook.remove()

    kept = list(before)
    if not stays(kept):
        kept = [activation for activation in kept if stays([activation])]
    return [(name, activation) for activation in kept for name in before[activation]]


def _agree(found: object, expected: object) -> bool:
    pairs = zip(_tensors(found), _tensors(expected), strict=True)
    return all(bool((one - other).abs().max() <= _TOLERANCE * one.abs().max()) for one, other in pairs)


def _fold_norms(model: nn.Module, pairs: Pairs) -> nn.Module:
    """Fold BatchNorms that have one convolution before them, and the branches of dynamic layers; in place."""
    for name, norm_name in pairs:
        conv, norm = model.get_submodule(name), model.get_submodule(norm_name)
        if isinstance(norm, nn.BatchNorm2d) and _fold(conv, norm):
            model.set_submodule(norm_name, _activation(norm))
    for layer in list(model.modules()):
        if isinstance(layer, DynamicConv2d) and not layer.fused:
            layer.fuse_branch()
            layer.fused = True
        elif isinstance(layer, CoefficientBranch):
            layer.prepare_inference()
    return model


def _fold_activations(model: nn.Module, pairs: Pairs, native_static: bool) -> nn.Module:
    """Make activations part of the convolutions before them, and static ones what native kernels compute; in place."""
    modules = dict(_outside_layers(model))
    before = _by_receiver(pairs)
    folded: dict[str, str] = {}
    for activation, names in before.items():
        if all(_takes_activation(modules[name], native_static) for name in names):
            folded.update(dict.fromkeys(names, _ACTIVATIONS[type(modules[activation])]))
            model.set_submodule(activation, nn.Identity())
    for name, module in modules.items():
        if isinstance(module, DynamicConv2d):
            module.fused_activation = folded.get(name, module.fused_activation)
        elif name and native_static and _is_static(module):
            # dense kernels of the library are as fast
            if name in folded or module.kernel_size == (1, 1) or module.groups > 1:
                model.set_submodule(name, FusedConv2d.of(module, folded.get(name, "none")))
    return model


def _takes_activation(module: nn.Module, native_static: bool) -> bool:
    if isinstance(module, DynamicConv2d):
        return module.applies_activation and module.fused_activation == "none"
    return native_static and _is_static(module)


def _is_static(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return any(is_ordinary(module, kind) for kind in (nn.Conv2d, StaticConv2d, Conv2dSame))


def _outside_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules by name, without those of which a dynamic layer consists."""
    layers = [module for module in model.modules() if isinstance(module, DynamicConv2d)]
    inside = {child for layer in layers for child in layer.modules()} - set(layers)
    return [(name, module) for name, module in model.named_modules() if module not in inside]


def _trace(model: nn.Module, example: object, receives: Callable[[nn.Module], bool]) -> tuple[object, Pairs]:
    """Output, and names of convolutions that are called once, and of modules that receive theirs and nothing else."""
    # objects and versions: no other tensor takes the place of one that is gone, and none that was changed counts
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    found: list[tuple[nn.Module, nn.Module]] = []
    calls: Counter[nn.Module] = Counter()

    def after(module: nn.Module, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = (module, output, _version(output))

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        maker, tensor, version = made.get(id(inputs[0]) if inputs else 0, (None, None, 0))
        if maker is not None and tensor is not None and _version(tensor) == version:
            found.append((maker, module))

    hooks = []
    for _, module in _outside_layers(model):
        if isinstance(module, (nn.Conv2d, DynamicConv2d)):
            hooks.append(module.register_forward_hook(lambda module, _, output: after(module, output)))
        elif receives(module):
            hooks.append(module.register_forward_pre_hook(before))
    try:
        output = model(example)
    finally:
        for hook in hooks:
            hook.remove()
    names = {module: name for name, module in model.named_modules()}
    received = Counter(other for _, other in found)
    kept = [(conv, other) for conv, other in found if calls[conv] == 1 and received[other] == calls[other]]
    return output, [(names[conv], names[other]) for conv, other in kept]


def _version(tensor: Tensor) -> int:
    """How often it was changed in place, as far as torch counts it."""
    return 0 if tensor.is_inference() else tensor._version


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
