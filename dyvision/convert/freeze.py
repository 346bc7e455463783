"""Stages that stay as they are while the rest of a network, and all coefficient branches, learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

from dyvision.convert._sites import find_convs
from dyvision.layers import CoefficientBranch
from dyvision.text import did_you_mean, some

Model = TypeVar("Model", bound=nn.Module)
#: what is before the first block, in networks that have no module of that name
_STEM = "stem"
#: under which a backbone has the modules of a classifier
_BODY = "body."


def freeze(model: Model, names: str | Sequence[str]) -> Model:
    """Freeze stages of a network, in place: their kernels, norms and statistics, but not their coefficient branches.

    Pretrained weights have no branches: frozen ones would never make a kernel depend on the input. BatchNorms of the
    stages stay in evaluation mode, also after ``model.train()``: each call of them switches them back. Kernels that a
    frozen stage shares with another one (KernelWarehouse) are frozen in both.

    Args:
        model: Any network, dynamic or not.
        names: Names of modules (``"layer1"``), wildcard patterns over them (``"blocks.[01]"``), separated by commas or
            in a list. ``"stem"`` is everything before the first block in networks that have no module of that name.

    Returns:
        The model.

    Raises:
        ValueError: If there is no module of a name; the message lists those that there are.

    Example:
        >>> import dyvision
        >>> model = dyvision.freeze(dyvision.create_model("resnet18", layer="dyconv"), "stem,layer1")
        >>> model.bn1.weight.requires_grad, model.layer2[0].bn1.weight.requires_grad
        (False, True)
    """
    stages = find_stages(model, names)
    freeze_parameters(model, [parameter for stage in stages for parameter in stage.parameters()])
    for stage in stages:
        for norm in free_norms(stage):
            norm.eval()
            if _stay_in_evaluation not in norm._forward_pre_hooks.values():
                norm.register_forward_pre_hook(_stay_in_evaluation)
    return model


def find_stages(model: nn.Module, names: str | Sequence[str]) -> list[nn.Module]:
    """The modules that the names of :func:`freeze` mean.

    Raises:
        ValueError: As there.
    """
    wanted = names.split(",") if isinstance(names, str) else list(names)
    modules = {name: module for name, module in model.named_modules() if name}
    found: list[nn.Module] = []
    for name in (one.strip() for one in wanted):
        matching = [
            module
            for key, module in modules.items()
            if fnmatchcase(key, name) or fnmatchcase(key.removeprefix(_BODY), name)
        ]
        if not matching and name == _STEM:
            matching = _before_blocks(model, modules)
        if not matching:
            top = _tops(modules)
            raise ValueError(
                f"freeze={name!r}: {type(model).__name__} has no module of that name; it has "
                f"{some([_STEM, *(one for one in top if one not in ('body', _STEM))], 20)}"
                f"{did_you_mean(name, [key.removeprefix(_BODY) for key in modules], 3)}"
            )
        found += matching
    return found


def _tops(modules: Mapping[str, nn.Module]) -> list[str]:
    """Names of the outermost modules; where one of them holds all stages (``blocks``), with the names of these."""
    top = list(dict.fromkeys(key.removeprefix(_BODY).partition(".")[0] for key in modules))
    inner = {name: [key for key in modules if key.removeprefix(_BODY).rpartition(".")[0] == name] for name in top}
    numbered = [name for name, keys in inner.items() if len(keys) > 1 and all(k.split(".")[-1].isdigit() for k in keys)]
    if len(numbered) == 1:
        name = numbered[0]
        top[top.index(name)] = f"{name} ({name}.0 to {name}.{len(inner[name]) - 1})"
    return top


def freeze_parameters(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Stop training those of ``parameters`` that no coefficient branch of ``model`` has."""
    free = {id(parameter) for branch in _branches(model) for parameter in branch.parameters()}
    for parameter in parameters:
        if id(parameter) not in free:
            parameter.requires_grad_(False)


def free_norms(model: nn.Module) -> list[nn.Module]:
    """BatchNorms of any kind that are in no coefficient branch."""
    inside = {id(module) for branch in _branches(model) for module in branch.modules()}
    kind = nn.modules.batchnorm._BatchNorm  # private: the class that all of them have in common
    return [module for module in model.modules() if isinstance(module, kind) and id(module) not in inside]


def _branches(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, CoefficientBranch)]


def _before_blocks(model: nn.Module, modules: dict[str, nn.Module]) -> list[nn.Module]:
    sites = find_convs(model, dynamic=True)
    first = next((site.block for site in sites if site.block), None)
    if first is None:
        return [site.conv for site in sites if site.role == "stem"]
    names = list(modules)
    before = names[: names.index(first)]
    return [modules[name] for name in before if not f"{first}.".startswith(f"{name}.")]


def _stay_in_evaluation(module: nn.Module, inputs: Any) -> None:
    if module.training:
        module.eval()
