"""The way back: a dynamic network as an ordinary one, under the coefficients that it has on average."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, fx, nn

from dyvision.convert._averages import average_coefficients
from dyvision.convert._block_origin import restore_block, without_branch
from dyvision.convert._refusals import check_is_plain
from dyvision.convert._replacing import swap
from dyvision.convert._shared_branches import BRANCH_NAME
from dyvision.convert.fuse import normed_convs
from dyvision.layers import DynamicConv2d, StaticConv2d
from dyvision.layers.classifier import DynamicClassifier
from dyvision.layers.fused import FusedConv2d
from dyvision.ops.geometry import is_channels_last
from dyvision.text import some

Metric = Callable[[nn.Module], float]


def collapse(
    model: nn.Module,
    dataloader: Iterable[Any],
    metric: Metric | None = None,
    reestimate_batchnorm: bool | None = None,
) -> nn.Module:
    """Make an ordinary static network of a dynamic one: each layer gets its average coefficients for good.

    Args:
        model: A network with dynamic layers; it is not changed. Of layers that work on every position (DRConv, FDConv
            with bands) or have a ReLU inside no ordinary convolution can be made.
        dataloader: The calibration set, a few hundred images as in training: batches that are tensors, tuples or lists
            that begin with one, or dictionaries with one under ``"image"``. Without a metric that needs it, labels are
            not looked at.
        metric: Called with a network in evaluation mode; larger is better.
        reestimate_batchnorm: Estimate the running statistics of BatchNorms anew on the calibration set, since the maps
            that they see have changed. By default only with a ``metric``, and kept only if it gains.

    Returns:
        A copy in evaluation mode. Each layer is an ``nn.Conv2d`` (timm's ``Conv2dSame`` where it pads as TensorFlow
        does with a stride), blocks have their own class again, and dynamic classifiers are ``nn.Linear``: the state
        dict fits the static network, such as ``timm.create_model(name)``. Exceptions are SK, whose kernel is as large
        as its branches reach, DCD of grouped convolutions, whose kernel is dense, and a bias that DCD adds where no
        BatchNorm follows to take it in.

    Raises:
        ValueError: If there is no dynamic layer, if one cannot be collapsed (all are named), or if one is not called
            for the calibration set.

    Example:
        >>> import torch, dyvision
        >>> model = dyvision.create_model("mobilenetv2_035", layer="dyconv", num_classes=10)
        >>> static = dyvision.collapse(model, [torch.randn(4, 3, 64, 64)])
        >>> type(static.blocks[1][0].conv_pw).__name__
        'Conv2d'
    """
    check_is_plain(model, "collapse")
    layers = _collapsible(model)
    batches = list(dataloader) if isinstance(dataloader, Iterator) else dataloader
    static = copy.deepcopy(model).eval()
    images = _images(batches, static)
    first = next(images(), None)
    if first is None:
        raise ValueError("dataloader has no batches: there is nothing to average the coefficients over")
    found = {name: static.get_submodule(name) for name in layers}
    averages = average_coefficients(static, found, images())
    with torch.no_grad():
        norms = dict(normed_convs(static, first))
        static = _make_static(static, averages, norms)
    if reestimate_batchnorm is None and metric is None:
        return static
    if reestimate_batchnorm is False:
        return static
    other = _reestimate(copy.deepcopy(static), images())
    if reestimate_batchnorm or (metric is not None and metric(other) > metric(static)):
        return other
    return static


def _collapsible(model: nn.Module) -> list[str]:
    """Names of the dynamic layers, each once."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, DynamicConv2d)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no dynamic layers: it is static already")
    obstacles = [(name, layer, layer.static_obstacle()) for name, layer in layers.items()]
    stop = [f"{name or 'it'} ({type(layer).__name__}: {why})" for name, layer, why in obstacles if why]
    if stop:
        raise ValueError(f"{len(stop)} layers cannot become ordinary convolutions: {some(stop, 3)}")
    return list(layers)


def _images(batches: Iterable[Any], model: nn.Module) -> Callable[[], Iterator[Any]]:
    reference = next(model.parameters())

    def prepare(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(reference.device, reference.dtype if value.is_floating_point() else None)
        return [prepare(entry) for entry in value]

    def walk() -> Iterator[Any]:
        for batch in batches:
            if isinstance(batch, Mapping):
                if "image" not in batch:
                    raise ValueError(f"a batch that is a dictionary needs 'image', got {', '.join(map(str, batch))}")
                batch = batch["image"]
            elif isinstance(batch, (tuple, list)) and not _is_list_of_images(batch):
                batch = batch[0]
            yield prepare(batch)

    return walk


def _is_list_of_images(batch: tuple[Any, ...] | list[Any]) -> bool:
    return all(isinstance(entry, Tensor) and entry.ndim == 3 and entry.is_floating_point() for entry in batch)


def _make_static(model: nn.Module, averages: Mapping[str, Any], norms: Mapping[str, str]) -> nn.Module:
    """Replace everything dynamic in place."""
    made: dict[nn.Module, nn.Module] = {}
    for name, coefficients in averages.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, DynamicConv2d)
        conv = to_conv(layer, coefficients)
        norm = model.get_submodule(norms[name]) if name in norms else None
        if conv.bias is not None and not layer.has_bias and _takes_shift(norm, conv.bias):
            conv.bias = None
        made[layer] = conv
    for module in list(model.modules()):
        if isinstance(module, StaticConv2d) and not isinstance(module, FusedConv2d):
            made[module] = _plain(module)
        elif isinstance(module, DynamicClassifier):
            inner = made[module.conv]
            assert isinstance(inner, nn.Conv2d)
            made[module] = _linear(inner)
    swap(model, made)
    blocks: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        if isinstance(module, fx.GraphModule) and BRANCH_NAME in dict(module.named_children()):
            blocks[module] = restore_block(module, BRANCH_NAME) or without_branch(module, BRANCH_NAME)
    swap(model, blocks)
    return made.get(model, blocks.get(model, model))


def to_conv(layer: DynamicConv2d, coefficients: Any) -> nn.Conv2d:
    """The convolution that a layer is under the coefficients of one sample, with a batch axis of 1.

    Raises:
        ValueError: If there is none.
    """
    obstacle = layer.static_obstacle()
    if obstacle:
        raise ValueError(f"{type(layer).__name__} cannot become an ordinary convolution: {obstacle}")
    weight, bias, own_padding, dilation = layer.static_kernel(coefficients)
    padding: Any = layer.padding if own_padding is None else own_padding
    kind: type[nn.Conv2d] = nn.Conv2d
    further: dict[str, Any] = {"padding_mode": layer.padding_mode}
    if padding == "same" and layer.stride != (1, 1):
        if layer.padding_mode != "zeros":
            raise ValueError(f"padding='same' with a stride and padding_mode={layer.padding_mode!r} has no equal")
        kind, padding, further = Conv2dSame, 0, {}
    reference = layer.weight
    conv = kind(
        layer.in_channels,
        layer.out_channels,
        (weight.shape[2], weight.shape[3]),
        layer.stride,
        padding,
        layer.dilation if dilation is None else dilation,
        layer.in_channels // weight.shape[1],
        bias is not None,
        **further,
        device=reference.device,
        dtype=reference.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        if conv.bias is not None and bias is not None:
            conv.bias.copy_(bias)
    if reference.ndim in (4, 5) and is_channels_last(reference if reference.ndim == 4 else reference[0]):
        conv.to(memory_format=torch.channels_last)
    kernels, biases = layer.kernels_and_biases()
    conv.weight.requires_grad_(any(kernel.requires_grad for kernel in kernels))
    if conv.bias is not None and biases:
        conv.bias.requires_grad_(any(own.requires_grad for own in biases))
    if layer.fused_activation != "none":
        conv = FusedConv2d.of(conv, layer.fused_activation)
    return conv.train(layer.training)


def _takes_shift(norm: nn.Module | None, shift: Tensor) -> bool:
    """Let a BatchNorm subtract so much less; whether it could."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
        return False
    norm.running_mean.sub_(shift.to(norm.running_mean.dtype))
    return True


def _plain(conv: StaticConv2d) -> nn.Conv2d:
    """The ordinary convolution that a ``StaticConv2d`` is."""
    sizes: Any = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
    further: dict[str, Any] = {"dilation": conv.dilation, "groups": conv.groups, "bias": conv.bias is not None}
    if conv.pads_same and conv.stride != (1, 1):
        made: nn.Conv2d = Conv2dSame(*sizes, **further)
    else:
        further.update(padding="same" if conv.pads_same else conv.padding, padding_mode=conv.padding_mode)
        made = nn.Conv2d(*sizes, **further)
    made.weight, made.bias = conv.weight, conv.bias
    return made.train(conv.training)


def _linear(conv: nn.Conv2d) -> nn.Linear:
    linear = nn.Linear(
        conv.in_channels, conv.out_channels, conv.bias is not None, conv.weight.device, conv.weight.dtype
    )
    linear.weight.copy_(conv.weight.flatten(1))
    if conv.bias is not None:
        linear.bias.copy_(conv.bias)
    return linear.train(conv.training)


def _reestimate(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Give BatchNorms the mean and variance of what they see, averaged over the batches."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
