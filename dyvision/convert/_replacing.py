"""Layers in the places of convolutions: one by one, by blocks that share a branch, by stages that share kernels."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.convert._block_inputs import UnclearInputsError, observe_calls, takes_several, understand_call
from dyvision.convert._fitting import Fitting
from dyvision.convert._handover import keep_attributes
from dyvision.convert._shared_branches import BRANCH_NAME, BlockTrace, UntraceableBlockError, share_branch, trace_block
from dyvision.convert._sites import ConvSite
from dyvision.layers import DynamicConv2d
from dyvision.text import some


class Replacement:
    """Puts layers of one class in the places of convolutions, and remembers what it did.

    Args:
        model: The network.
        layer_class: The class of the layers.
        preserve_outputs: Whether they start from the convolutions' weights.
        layer_kwargs: Their own arguments.
        example: What the model takes, to see how it calls blocks with several inputs; without one images are tried.
    """

    def __init__(
        self,
        model: nn.Module,
        layer_class: type[DynamicConv2d],
        preserve_outputs: bool,
        layer_kwargs: Mapping[str, Any],
        example: Tensor | None = None,
    ) -> None:
        self.model, self.layer_class, self.preserve_outputs, self.example = (
            model,
            layer_class,
            preserve_outputs,
            example,
        )
        self.fitting = Fitting(layer_kwargs)
        #: the layers by the name of the convolution that each replaced
        self.layers: dict[str, DynamicConv2d] = {}
        #: the branches that several layers share, by name
        self.branches: dict[str, nn.Module] = {}
        #: calls of blocks with several inputs
        self.calls: Mapping[str, Sequence[tuple[Any, Any]]] = {}
        #: blocks whose layers keep a branch each, and why
        self.apart: dict[str, str] = {}

    def replace(self, sites: Sequence[ConvSite]) -> None:
        """Replace convolutions; warn of blocks that could not share, and of options that did not fit.

        Raises:
            ValueError: If an option is wrong in itself, or fits none of the layers.
        """
        if self.layer_class.shares_kernels:
            self._by_stages(sites)
        elif self.layer_class.shares_coefficients:
            self._by_blocks(sites)
        else:
            self._one_by_one(sites)
        if not self.layers:
            name, reason = next(iter(self.fitting.static.items()))
            raise ValueError(f"no layer can be built: {f'{name}: ' if name else ''}{reason}")
        reasons: dict[str, list[str]] = {}
        for block, reason in self.apart.items():
            reasons.setdefault(reason, []).append(block)
        for reason, names in reasons.items():
            warnings.warn(
                f"the layers of {len(names)} blocks ({some(names, 3)}) keep a branch each instead of one per block: "
                f"{reason}",
                stacklevel=3,
            )
        self.fitting.warn(len(sites))

    def _one_by_one(self, sites: Sequence[ConvSite]) -> None:
        built = {site.conv: self._build(site) for site in sites}
        swap(self.model, {conv: layer for conv, layer in built.items() if layer is not None})

    def _by_blocks(self, sites: Sequence[ConvSite]) -> None:
        blocks: dict[str | None, list[ConvSite]] = {}
        for site in sites:
            blocks.setdefault(site.block, []).append(site)
        several = [block for block in blocks if block and takes_several(self.model.get_submodule(block))]
        self.calls = observe_calls(self.model, several, self.example) if several else {}
        for block, members in blocks.items():
            trace = None if block is None else self._try_trace(block, members)
            if block is None or trace is None:
                self._one_by_one(members)
            else:
                self._share(block, members, trace)

    def _by_stages(self, sites: Sequence[ConvSite]) -> None:
        groups: dict[tuple[Any, ...], list[ConvSite]] = {}
        for site in sites:
            # an expansion and the projection back have the same sizes, which divide into the same cells
            sizes = (site.conv.kernel_size, site.conv.groups, frozenset(site.conv.weight.shape[:2]))
            groups.setdefault((site.stage, *sizes) if site.block else (site.name,), []).append(site)

        for members in groups.values():

            def make(options: dict[str, Any], members: list[ConvSite] = members) -> list[DynamicConv2d]:
                layers = [self._convert(site.conv, options, preserve_outputs=False) for site in members]
                if len(layers) > 1:
                    self.layer_class.share_kernels(layers)
                return layers

            layers = self.fitting.build([site.name for site in members], make)
            self.layers.update(zip([site.name for site in members], layers or (), strict=False))
        sites = [site for site in sites if site.name in self.layers]
        for site in sites:
            layer = self.layers[site.name]
            if self.preserve_outputs:  # not before: sharing initialises anew
                with torch.no_grad():
                    layer.load_static(site.conv.weight, site.conv.bias)
                layer.freeze_like(site.conv)
            keep_attributes(site.conv, layer)
        swap(self.model, {site.conv: self.layers[site.name] for site in sites})
        self._thaw(sites)

    def _thaw(self, sites: Sequence[ConvSite]) -> None:
        """Let the kernels of frozen layers train that others, which train, share with them."""
        trained = {
            id(kernel)
            for site in sites
            if site.conv.weight.requires_grad
            for kernel in self.layers[site.name].kernels_and_biases()[0]
        }
        mixed = []
        for site in sites:
            kernels = [] if site.conv.weight.requires_grad else self.layers[site.name].kernels_and_biases()[0]
            common = [kernel for kernel in kernels if id(kernel) in trained]
            for kernel in common:
                kernel.requires_grad_(True)
            if common:
                mixed.append(site.name)
        if mixed and self.preserve_outputs:
            warnings.warn(
                f"{some(mixed, 3)} were frozen, but share kernels with convolutions that train: these kernels train",
                stacklevel=5,
            )

    def _try_trace(self, block: str, members: Sequence[ConvSite]) -> BlockTrace | None:
        try:
            if not block:
                raise UntraceableBlockError("the block is the model itself, which is changed in place")
            module = self.model.get_submodule(block)
            call = understand_call(module, self.calls[block]) if block in self.calls else None
            return trace_block(module, [_relative(site.name, block) for site in members], call)
        except (UntraceableBlockError, UnclearInputsError) as error:
            self.apart[block or type(self.model).__name__] = str(error)
            return None

    def _share(self, block: str, members: Sequence[ConvSite], trace: BlockTrace) -> None:
        built = {site.name: self._build(site, branch=False) for site in members}
        layers = {_relative(name, block): layer for name, layer in built.items() if layer is not None}
        if not layers:
            return
        branch = self.layer_class.make_shared_branch(
            trace.in_channels,
            list(layers.values()),
            **_accepted(self.layer_class.make_shared_branch, self.fitting.options),
        )
        if self.preserve_outputs:
            branch.start_constant()
        original = self.model.get_submodule(block)
        branch.to(members[0].conv.weight.device).train(original.training)
        self.branches[f"{block}.{BRANCH_NAME}"] = branch
        swap(self.model, {original: share_branch(original, trace, branch, layers)})

    def _build(self, site: ConvSite, **further: Any) -> DynamicConv2d | None:
        layer = self.fitting.build([site.name], lambda options: self._convert(site.conv, {**options, **further}))
        if layer is not None:
            self.layers[site.name] = layer
        return layer

    def _convert(
        self, conv: nn.Conv2d, options: Mapping[str, Any], preserve_outputs: bool | None = None
    ) -> DynamicConv2d:
        preserve = self.preserve_outputs if preserve_outputs is None else preserve_outputs
        layer = self.layer_class.from_conv(conv, preserve_outputs=preserve, **options)
        keep_attributes(conv, layer)
        return layer.train(conv.training)


def _accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments a function takes; the layers, built first, have rejected those that are wrong altogether."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in parameters}


def swap(model: nn.Module, made: Mapping[nn.Module, nn.Module]) -> None:
    """Put what was made wherever its original is: a convolution used in several places stays shared between them."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in made:
                setattr(parent, name, made[child])


def _relative(name: str, block: str) -> str:
    return name[len(block) + 1 :]
