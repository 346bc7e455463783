"""Make the convolutions of any network dynamic."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from dyvision.convert._handover import (
    keep_attributes,
    say_who_reads,
    skipped_convs,
    warn_of_dynamic,
    warn_of_losses,
    warn_of_skipped,
)
from dyvision.convert._reads import readers_of
from dyvision.convert._shared_branches import BlockTrace, UntraceableBlockError, share_branch, trace_block
from dyvision.convert._sites import ConvSite, find_convs
from dyvision.convert.policies import Policy, default_policy, list_policies, select_convs
from dyvision.layers import DynamicConv2d, get_layer
from dyvision.layers.arguments import check_own_arguments
from dyvision.text import some


def dynamize(
    model: nn.Module,
    layer: str,
    policy: Policy | None = None,
    preserve_outputs: bool = True,
    **layer_kwargs: Any,
) -> nn.Module:
    """Replace convolutions of a model by dynamic layers, in place.

    Args:
        model: Any module with ``nn.Conv2d`` inside: a timm, torchvision or own network, pretrained or not; or a single
            ``nn.Conv2d``, whatever the policy.
        layer: A name of :func:`dyvision.list_layers`. ``"static"`` leaves the model as it is.
        policy: Which convolutions: a name of :func:`dyvision.list_policies`, a wildcard pattern over module names or a
            list of them (``["layer3.*", "layer4.*"]``), or a function of ``(name, conv)``. By default what the method's
            paper replaced. Convolutions of attention modules, classifiers and the predictors of detection heads are
            never replaced.
        preserve_outputs: Start from the model's weights such that it computes what it computed before. Otherwise the
            layers start from the method's own initialisation.
        **layer_kwargs: The layer's own arguments (``num_kernels=4``).

    Returns:
        The model (for a single convolution, the layer in its place). Its modules keep their names, device, dtype,
        memory format and training mode, and frozen convolutions frozen kernels; the branch that the layers of a block
        share (CondConv, DyNet, WeightNet) is the block's child ``coefficient_branch``. Layers of a stage whose kernels
        have the same sizes share a warehouse (KernelWarehouse).

    Raises:
        ValueError: For an unknown layer or policy (with the closest names), or if nothing would be replaced.
        TypeError: If the layer does not take one of ``layer_kwargs``.

    Warns:
        UserWarning: If a block that should share one branch cannot be rewritten; its layers keep a branch each. If a
            convolution has hooks (its own, or its weight's) or shares its weight with another module, which the layer
            in its place does not. If convolutions stay static because they are more than an ``nn.Conv2d``
            (parametrized, lazy, another forward, also one that was replaced on the instance), or because a ``forward``
            reads their weight or bias itself, as far as ``torch.fx`` can tell.

    Example:
        >>> import timm, dyvision
        >>> model = dyvision.dynamize(timm.create_model("resnet18"), "dyconv", num_kernels=2)
    """
    layer_class = get_layer(layer)
    if layer == "static":
        if layer_kwargs:
            raise ValueError(f"layer 'static' takes no arguments, but got {', '.join(sorted(layer_kwargs))}")
        return model
    if not issubclass(layer_class, DynamicConv2d):
        raise ValueError(f"layer {layer!r} is not a DynamicConv2d, so dynamize cannot use it")
    check_own_arguments(layer_class, DynamicConv2d, layer_kwargs)
    if isinstance(model, nn.Conv2d):
        return _replace_bare(model, layer_class, preserve_outputs, layer_kwargs)
    sites = select_convs(model, default_policy(layer) if policy is None else policy)
    read = readers_of(model, sites)
    sites = [site for site in sites if site.name not in read]
    if not sites:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in say_who_reads(read).items())
        raise ValueError(f"{type(model).__name__} has no convolution that can become dynamic; {reasons}")
    warn_of_losses(model, sites, preserve_outputs)
    warn_of_skipped(model, sites, read)
    if policy is None or policy in list_policies():
        warn_of_dynamic(model, sites)
    if layer_class.shares_kernels:
        _replace_sharing_kernels(model, sites, layer_class, preserve_outputs, layer_kwargs)
        return model
    if not layer_class.shares_coefficients:
        for site in sites:
            _replace(model, site, _convert(layer_class, site.conv, preserve_outputs, layer_kwargs))
        return model

    blocks: dict[str | None, list[ConvSite]] = {}
    for site in sites:
        blocks.setdefault(site.block, []).append(site)
    untraced: dict[str, list[str]] = {}
    for block, members in blocks.items():
        trace = _try_trace(model, block, members, untraced)
        if block is None or trace is None:
            for site in members:
                _replace(model, site, _convert(layer_class, site.conv, preserve_outputs, layer_kwargs))
        else:
            _share(model, block, members, trace, layer_class, preserve_outputs, layer_kwargs)
    for reason, names in untraced.items():
        warnings.warn(
            f"the layers of {len(names)} blocks ({some(names, 3)}) keep a branch each instead of one per block: "
            f"{reason}",
            stacklevel=2,
        )
    return model


def _replace_bare(
    conv: nn.Conv2d, layer_class: type[DynamicConv2d], preserve_outputs: bool, layer_kwargs: dict[str, Any]
) -> DynamicConv2d:
    """The layer for a convolution that is the whole model."""
    site = find_convs(conv)
    if not site:
        reason = "".join(skipped_convs(conv).values()) or f"a {type(conv).__name__}"
        raise ValueError(f"model is a convolution that cannot become dynamic: {reason}")
    warn_of_losses(conv, site, preserve_outputs)
    return _convert(layer_class, conv, preserve_outputs, layer_kwargs)


def _replace_sharing_kernels(
    model: nn.Module,
    sites: Sequence[ConvSite],
    layer_class: type[DynamicConv2d],
    preserve_outputs: bool,
    layer_kwargs: dict[str, Any],
) -> None:
    layers = {site.name: _convert(layer_class, site.conv, False, layer_kwargs) for site in sites}
    groups: dict[tuple[Any, ...], list[DynamicConv2d]] = {}
    for site in sites:
        # an expansion and the projection back have the same sizes, which divide into the same cells
        sizes = (site.conv.kernel_size, site.conv.groups, frozenset(site.conv.weight.shape[:2]))
        groups.setdefault((site.stage, *sizes) if site.block else (site.name,), []).append(layers[site.name])
    for group in groups.values():
        if len(group) > 1:
            layer_class.share_kernels(group)
    for site in sites:
        if preserve_outputs:  # not before: sharing initialises anew
            with torch.no_grad():
                layers[site.name].load_static(site.conv.weight, site.conv.bias)
            layers[site.name].freeze_like(site.conv)
        keep_attributes(site.conv, layers[site.name])
        _replace(model, site, layers[site.name])
    trained = {
        id(kernel)
        for site in sites
        if site.conv.weight.requires_grad
        for kernel in layers[site.name].kernels_and_biases()[0]
    }
    mixed = [site.name for site in sites if not site.conv.weight.requires_grad and _thaw(layers[site.name], trained)]
    if mixed and preserve_outputs:
        warnings.warn(
            f"{some(mixed, 3)} were frozen, but share kernels with convolutions that train: these kernels train",
            stacklevel=3,
        )


def _thaw(layer: DynamicConv2d, trained: set[int]) -> bool:
    """Let the kernels of a layer train that others, which train, share with it; whether there are any."""
    kernels = [kernel for kernel in layer.kernels_and_biases()[0] if id(kernel) in trained]
    for kernel in kernels:
        kernel.requires_grad_(True)
    return bool(kernels)


def _try_trace(
    model: nn.Module, block: str | None, members: Sequence[ConvSite], untraced: dict[str, list[str]]
) -> BlockTrace | None:
    if block is None:
        return None
    try:
        if not block:
            raise UntraceableBlockError("the block is the model itself, which is changed in place")
        return trace_block(model.get_submodule(block), [_relative(site.name, block) for site in members])
    except UntraceableBlockError as error:
        untraced.setdefault(str(error), []).append(block or type(model).__name__)
        return None


def _share(
    model: nn.Module,
    block: str,
    members: Sequence[ConvSite],
    trace: BlockTrace,
    layer_class: type[DynamicConv2d],
    preserve_outputs: bool,
    layer_kwargs: dict[str, Any],
) -> None:
    layers = {
        _relative(site.name, block): _convert(
            layer_class, site.conv, preserve_outputs, {**layer_kwargs, "branch": False}
        )
        for site in members
    }
    branch = layer_class.make_shared_branch(
        trace.in_channels, list(layers.values()), **_accepted(layer_class.make_shared_branch, layer_kwargs)
    )
    if preserve_outputs:
        branch.start_constant()
    original = model.get_submodule(block)
    branch.to(members[0].conv.weight.device).train(original.training)
    _swap(model, original, share_branch(original, trace, branch, layers))


def _accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments a function takes; the layers, built first, have rejected those that are wrong altogether."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def _convert(
    layer_class: type[DynamicConv2d], conv: nn.Conv2d, preserve_outputs: bool, layer_kwargs: dict[str, Any]
) -> DynamicConv2d:
    layer = layer_class.from_conv(conv, preserve_outputs=preserve_outputs, **layer_kwargs)
    keep_attributes(conv, layer)
    return layer.train(conv.training)


def _replace(model: nn.Module, site: ConvSite, layer: nn.Module) -> None:
    _swap(model, site.conv, layer)


def _swap(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is: a convolution used in several places stays shared between them."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)


def _relative(name: str, block: str) -> str:
    return name[len(block) + 1 :]
