"""Make the convolutions of any network dynamic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import Tensor, nn

from dyvision.convert._atomic import unchanged_on_error
from dyvision.convert._handover import (
    say_who_reads,
    skipped_convs,
    warn_of_dynamic,
    warn_of_losses,
    warn_of_skipped,
)
from dyvision.convert._measuring import count_executed, count_params, make_report
from dyvision.convert._reads import readers_of
from dyvision.convert._refusals import check_is_plain
from dyvision.convert._replacing import Replacement
from dyvision.convert._sites import ConvSite, find_convs
from dyvision.convert.freeze import find_stages
from dyvision.convert.freeze import freeze as freeze_stages
from dyvision.convert.policies import Policy, default_policy, left_alone, list_policies, select_convs
from dyvision.convert.report import ConversionReport
from dyvision.layers import DynamicConv2d, get_layer
from dyvision.layers.arguments import check_own_arguments


@overload
def dynamize(
    model: nn.Module,
    layer: str,
    policy: Policy | None = None,
    preserve_outputs: bool = True,
    *,
    return_report: Literal[True],
    example_input: Tensor | None = None,
    freeze: str | Sequence[str] | None = None,
    **layer_kwargs: Any,
) -> tuple[nn.Module, ConversionReport]: ...


@overload
def dynamize(
    model: nn.Module,
    layer: str,
    policy: Policy | None = None,
    preserve_outputs: bool = True,
    *,
    return_report: Literal[False] = False,
    example_input: Tensor | None = None,
    freeze: str | Sequence[str] | None = None,
    **layer_kwargs: Any,
) -> nn.Module: ...


def dynamize(
    model: nn.Module,
    layer: str,
    policy: Policy | None = None,
    preserve_outputs: bool = True,
    *,
    return_report: bool = False,
    example_input: Tensor | None = None,
    freeze: str | Sequence[str] | None = None,
    **layer_kwargs: Any,
) -> nn.Module | tuple[nn.Module, ConversionReport]:
    """Replace convolutions of a model by dynamic layers, in place.

    Args:
        model: Any module with ``nn.Conv2d`` inside: a timm, torchvision or own network, pretrained or not; or a single
            ``nn.Conv2d``, whatever the policy.
        layer: A name of :func:`dyvision.list_layers`. ``"static"`` leaves the model as it is.
        policy: Which convolutions: a name of :func:`dyvision.list_policies`, a wildcard pattern over module names or a
            list of them (``["layer3.*", "layer4.*"]``), or a function of ``(name, conv)``. By default what the method's
            paper replaced. Convolutions of attention modules, classifiers and the predictors of heads are never
            replaced; those of pyramids, decoders and heads only by ``"all"``, patterns and functions.
        preserve_outputs: Start from the model's weights such that it computes what it computed before. Otherwise the
            layers start from the method's own initialisation.
        return_report: Return a :class:`dyvision.convert.ConversionReport` as well, whose text is a table.
        example_input: A batch that the model takes; the report counts multiply-adds for it. It also shows how blocks
            with several inputs are called.
        freeze: Stages whose kernels, norms and statistics stay as they are while their coefficient branches learn
            (``"stem,layer1"``), as :func:`dyvision.freeze` takes them.
        **layer_kwargs: The layer's own arguments (``num_kernels=4``). Where one does not fit a layer's channels
            (``heads=4`` with 58 of them), that layer takes the largest value that does, or stays static if none does.

    Returns:
        The model (for a single convolution, the layer in its place), or the model and the report. Its modules keep
        their names, device, dtype, memory format and training mode, and frozen convolutions frozen kernels; the branch
        that the layers of a block share (CondConv, DyNet, WeightNet) is the block's child ``coefficient_branch``, and
        sees the first tensor that the block is given.
        Layers of a stage whose kernels have the same sizes share a warehouse (KernelWarehouse).

    Raises:
        ValueError: For an unknown layer or policy (with the closest names), if nothing would be replaced (with the
            policies that would replace something), if ``freeze`` names no module, or if one of ``layer_kwargs`` is
            wrong whatever the channels.
        TypeError: If the layer does not take one of ``layer_kwargs``.

        After an error, these or another one, the model is what it was.

    Warns:
        UserWarning: If one of ``layer_kwargs`` does not fit some of the layers. If a block that should share one branch
            cannot be rewritten; its layers keep a branch each. If a convolution has hooks (its own, or its weight's) or
            shares its weight with another module, which the layer in its place does not. If convolutions stay static
            because they are more than an ``nn.Conv2d`` (parametrized, lazy, another forward, also one that was replaced
            on the instance), or because a ``forward`` reads their weight or bias itself, as far as ``torch.fx`` can
            tell.

    Example:
        >>> import timm, dyvision
        >>> model = dyvision.dynamize(timm.create_model("resnet18"), "dyconv", num_kernels=2)
    """
    layer_class = get_layer(layer)
    if example_input is not None and not return_report:
        raise ValueError("example_input is what the report counts multiply-adds for: give return_report=True, too")
    check_is_plain(model, "dynamize")
    if layer == "static":
        if layer_kwargs:
            raise ValueError(f"layer 'static' takes no arguments, but got {', '.join(sorted(layer_kwargs))}")
        params = count_params([model])
        report = ConversionReport(layer, params_before=params, params_after=params)
        if freeze is not None:
            freeze_stages(model, freeze)
        return (model, report) if return_report else model
    if not issubclass(layer_class, DynamicConv2d):
        raise ValueError(f"layer {layer!r} is not a DynamicConv2d, so dynamize cannot use it")
    check_own_arguments(layer_class, DynamicConv2d, layer_kwargs)
    # a convolution that is the whole model is replaced in a container of its own
    bare = isinstance(model, nn.Conv2d)
    with unchanged_on_error(model):
        if freeze is not None:
            find_stages(model, freeze)  # names are wrong before anything is done
        sites, static = _bare(model) if isinstance(model, nn.Conv2d) else _choose(model, layer, policy)
        warn_of_losses(model, sites, preserve_outputs)
        warn_of_skipped(static, sites)
        if not bare:
            static = {**static, **left_alone(model, default_policy(layer) if policy is None else policy)}
        if not bare and (policy is None or policy in list_policies()):
            warn_of_dynamic(model, sites)
        params, macs = count_params([model]), None
        if example_input is not None:
            macs = count_executed(model, {site.name: site.conv for site in sites}, example_input)
        done = Replacement(model, layer_class, preserve_outputs, layer_kwargs, example_input)
        done.replace(sites)
        converted = done.layers[""] if bare else model
        if freeze is not None:
            freeze_stages(converted, freeze)
        if not return_report:
            return converted
        return converted, make_report(layer, converted, sites, done, static, params, macs, example_input)


def _bare(conv: nn.Conv2d) -> tuple[Sequence[ConvSite], dict[str, str]]:
    """The convolution that is the whole model."""
    sites = find_convs(conv)
    if not sites:
        reason = "".join(skipped_convs(conv).values()) or f"a {type(conv).__name__}"
        raise ValueError(f"model is a convolution that cannot become dynamic: {reason}")
    return sites, {}


def _choose(model: nn.Module, layer: str, policy: Policy | None) -> tuple[Sequence[ConvSite], dict[str, str]]:
    """What a policy selects, and the convolutions that stay static, with the reason."""
    sites = select_convs(model, default_policy(layer) if policy is None else policy)
    read = readers_of(model, sites)
    sites = [site for site in sites if site.name not in read]
    if not sites:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in say_who_reads(read).items())
        raise ValueError(f"{type(model).__name__} has no convolution that can become dynamic; {reasons}")
    return sites, {**skipped_convs(model), **say_who_reads(read)}
