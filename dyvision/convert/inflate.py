"""A static network's checkpoint starts the dynamic network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from dyvision.convert.matching import COUNTER, Fit, describe_misfit, match, without_head
from dyvision.convert.pretrained_report import PretrainedReport, report_pretrained
from dyvision.convert.renaming import candidates, names_in
from dyvision.convert.state_dicts import Source, read_state_dict
from dyvision.layers import CoefficientBranch, DynamicConv2d
from dyvision.layers.classifier import DynamicClassifier
from dyvision.tensor_kinds import check_kinds

#: sets a layer's parameters from the weight and the bias of the static one
_Start = Callable[[Tensor, Tensor | None], None]


class Taken(NamedTuple):
    """What :func:`take_weights` did.

    Attributes:
        names: The tensors that the network wanted.
        fresh: Of these, those that keep their initialisation.
        skipped: Names in the source that were not used.
        inflated: Whether dynamic layers start from static weights.
    """

    names: tuple[str, ...]
    fresh: tuple[str, ...]
    skipped: tuple[str, ...]
    inflated: bool


def inflate_checkpoint(
    model: nn.Module, source: Source, *, where: str | None = None, name: str | None = None
) -> PretrainedReport:
    """Start a network, dynamic or not, from the checkpoint of the static network, in place.

    The dynamic layers then compute what the static convolutions did: their kernels start from the static ones, their
    branches such that every image gets the same. The checkpoint may be of any training script
    (:func:`dyvision.backbones.read_state_dict`), of a classifier or of one of dyvision's tasks; its names may have any
    prefix (``module.``, ``model.``, ``backbone.body.``), be those that timm converts, or those of another
    implementation with the same modules in the same order (torchvision's). A first convolution for another number of
    input channels is adapted as in timm; a classifier with another number of classes, and what lies between the feature
    maps and the classifier where the file has none, keeps its initialisation. Of a file with the same dynamic layers
    all tensors are loaded as they are.

    Args:
        model: The network: a timm, torchvision or own one, before or after :func:`dyvision.dynamize`.
        source: A state dict, or a file.
        where: The file that a state dict was read from, for messages.
        name: What to call the network in the report; the name of its class if None.

    Returns:
        What was taken from the file, what starts anew, and what of the file was not used; also logged in one line.

    Raises:
        ValueError: If the file cannot be read safely or holds no tensors or values that are not finite; if it is of
            another architecture, or has dynamic layers that the network has not. The network is not changed then.

    Example:
        >>> import timm, dyvision
        >>> from dyvision.convert import inflate_checkpoint
        >>> trained = timm.create_model("test_resnet", num_classes=10).state_dict()
        >>> model = dyvision.create_model("test_resnet", layer="dcd", num_classes=4)
        >>> report = inflate_checkpoint(model, trained)
        >>> len(report.kernels), report.classifier
        (9, ('fc.weight', 'fc.bias'))
    """
    what = where or ("the given state dict" if isinstance(source, Mapping) else str(source))
    taken = take_weights(model, read_state_dict(source), what)
    return report_pretrained(model, name or type(model).__name__, what, *taken)


def take_weights(model: nn.Module, state: Mapping[str, Tensor], what: str) -> Taken:
    """As :func:`inflate_checkpoint`, of a state dict, without a report.

    Args:
        model: The network.
        state: Tensors by name.
        what: What to call them in messages.
    """
    head = _head(model)
    target = model.state_dict()
    fit = _find(model, target, state, head)
    starts: dict[str, _Start] = {}
    if not fit.complete and (starts := _starts(model)):
        target = _static_view(model, starts)
        fit = _find(model, target, state, head)
    if not fit.complete:
        raise ValueError(describe_misfit(model, fit, what, target))
    check_kinds(fit.tensors, target, what)
    with _unchanged_on_error(model), torch.no_grad():
        _start(model, starts, fit.tensors)
        started = {f"{_dot(name)}{part}" for name in starts for part in ("weight", "bias")}
        rest = {name: tensor for name, tensor in fit.tensors.items() if name not in started}
        model.load_state_dict(rest, strict=False)
    fresh = {name for name in target if name not in fit.tensors and not name.endswith(COUNTER)}
    return Taken(tuple(target), tuple(fresh), tuple(fit.skipped), bool(starts))


def _find(model: nn.Module, target: Mapping[str, Tensor], state: Mapping[str, Tensor], head: tuple[str, ...]) -> Fit:
    """The first way to read the names under which everything fits, else how the plain names compare."""
    fits = []
    for renamed in candidates(model, target, state, head):
        fit = without_head(match(target, renamed), head)
        if fit.missing and not (fit.reshaped or fit.unexpected):
            # a checkpoint of segmentation or detection ends with the feature maps
            fit = without_head(fit, tuple(_behind_the_maps(model)))
        if fit.complete and fit.tensors:
            return fit
        fits.append(fit)
    return fits[0]


def _starts(model: nn.Module) -> dict[str, _Start]:
    """What starts each dynamic layer from a static one, by the name of the layer."""
    starts: dict[str, _Start] = {}
    classifiers = {f"{name}.conv": name for name, module in model.named_modules() if type(module) is DynamicClassifier}
    for name, module in model.named_modules():
        if name in classifiers:
            starts[classifiers[name]] = _start_of_linear(module)
        elif isinstance(module, DynamicConv2d):
            starts[name] = module.load_static
    return starts


def _start_of_linear(conv: Any) -> _Start:
    return lambda weight, bias: conv.load_static(weight[:, :, None, None], bias)


def _static_view(model: nn.Module, starts: Collection[str]) -> dict[str, Tensor]:
    """The tensors that the static network has in place of a dynamic one; those of its layers without memory."""
    branches = [name for name, module in model.named_modules() if isinstance(module, CoefficientBranch)]
    inside = tuple(_dot(name) for name in (*starts, *branches))
    view: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(inside):
            view[name] = tensor
    for name in starts:
        module = model.get_submodule(name) if name else model
        layer = cast(DynamicConv2d, module.conv if isinstance(module, DynamicClassifier) else module)
        shape = layer.kernel_shape[:2] if isinstance(module, DynamicClassifier) else layer.kernel_shape
        view[f"{_dot(name)}weight"] = torch.empty(shape, device="meta")
        if layer.has_bias:
            view[f"{_dot(name)}bias"] = torch.empty(shape[0], device="meta")
    return view


def _start(model: nn.Module, starts: Mapping[str, _Start], tensors: Mapping[str, Tensor]) -> None:
    """Start the dynamic layers, and what they share, from static weights."""
    taken = [name for name in starts if f"{_dot(name)}weight" in tensors]
    if not taken:
        return
    layers = {name: model.get_submodule(name) if name else model for name in taken}
    for module in layers.values():
        # load_static goes on from the initial values of a layer, and this one may be trained already
        layer = module.conv if isinstance(module, DynamicClassifier) else module
        cast(DynamicConv2d, layer).reset_parameters()
    for name in taken:
        device = next(layers[name].parameters()).device
        weight, bias = tensors[f"{_dot(name)}weight"].to(device), tensors.get(f"{_dot(name)}bias")
        starts[name](weight, None if bias is None else bias.to(device))
    # a classifier of other classes is not taken, and has a branch of its own, too
    inside = {id(child) for name in starts for child in (model.get_submodule(name) if name else model).modules()}
    for module in model.modules():
        if isinstance(module, CoefficientBranch) and id(module) not in inside:
            module.start_constant()


def _dot(name: str) -> str:
    """What stands before the names of a module's tensors."""
    return f"{name}." if name else ""


def _head(model: nn.Module) -> tuple[str, ...]:
    """What the names of the classifier begin with: as timm says, else the last linear layer."""
    known = names_in(getattr(model, "pretrained_cfg", None), "classifier")
    if not known:
        linear = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, DynamicClassifier))]
        outside = [name for name in linear if not isinstance(_owner(model, name), (CoefficientBranch, DynamicConv2d))]
        known = tuple(outside[-1:])
    return tuple(f"{name}." for name in known)


def _owner(model: nn.Module, name: str) -> nn.Module | None:
    """The dynamic layer or branch around a module."""
    parts = name.split(".")
    around = (model.get_submodule(".".join(parts[:count])) for count in range(1, len(parts)))
    return next((module for module in around if isinstance(module, (CoefficientBranch, DynamicConv2d))), None)


def _behind_the_maps(model: nn.Module) -> list[str]:
    """Names of what a classifier has behind its last feature map (MobileNet's last 1x1 convolution)."""
    if not hasattr(model, "prune_intermediate_layers"):
        return []
    pruned: Any = deepcopy(model)
    pruned.prune_intermediate_layers(prune_norm=True, prune_head=True)
    kept = set(pruned.state_dict())
    return [name for name in model.state_dict() if name not in kept]


@contextmanager
def _unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Give the model its tensors back if the block raises."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    except BaseException:
        model.load_state_dict(before)
        raise
