"""What a convolution has beside its weight, and whether the layer in its place keeps it: hooks, ties, own classes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from torch import nn

from dyvision.convert._sites import CONVERTIBLE, ConvSite, has_own_methods, is_plain
from dyvision.layers import CoefficientBranch, DynamicConv2d
from dyvision.text import some

#: private: torch lists the hooks of modules and tensors nowhere else
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
#: what every convolution has
_ORDINARY = frozenset(name for kind in CONVERTIBLE for name in vars(kind(1, 1, 1)))


def warn_of_losses(model: nn.Module, sites: Sequence[ConvSite], preserve_outputs: bool) -> None:
    """Warn once of everything that the layers in the place of these convolutions will not have.

    Args:
        model: The network, before anything is replaced.
        sites: The convolutions that will be.
        preserve_outputs: Whether the layers start from their weights, and are frozen like them.
    """
    parts = {
        "the hooks of": [site.name for site in sites if has_hooks(site.conv)],
        "the hooks on weight or bias of": [site.name for site in sites if _has_tensor_hooks(site.conv)],
        "the further parameters, buffers and modules of": [site.name for site in sites if _has_more(site.conv)],
    }
    losses = [f"{what} {some(names, 3)}" for what, names in parts.items() if names]
    tied = _tied(model, sites)
    if tied:
        shared = f"the weights that {some(tied, 3)} share with other modules, which are copied"
        losses.append(f"{shared} (a policy of patterns can leave them out)")
    if not preserve_outputs:
        frozen = [site.name for site in sites if any(not p.requires_grad for p in site.conv.parameters())]
        if frozen:
            losses.append(f"requires_grad=False of {some(frozen, 3)}, whose kernels start anew")
    if losses:
        warnings.warn(f"dynamize drops {'; '.join(losses)}", stacklevel=3)


def keep_attributes(conv: nn.Conv2d, layer: DynamicConv2d) -> None:
    """Give a layer, and its kernels and bias, what was stored on the convolution, its weight and its bias.

    Networks keep marks there that their ``forward`` or an optimiser reads (``conv.index``, ``weight.lr_scale``).
    """
    for name, value in vars(conv).items():
        # a name that means something else to the layer stays the layer's
        if name not in _ORDINARY and (hasattr(nn.Conv2d, name) or not hasattr(layer, name)):
            setattr(layer, name, value)
    for theirs, ours in zip((conv.weight, conv.bias), layer.kernels_and_biases(), strict=True):
        for parameter in ours if theirs is not None else []:
            for name, value in vars(theirs).items():
                setattr(parameter, name, value)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module itself has hooks of any kind."""
    return any(getattr(module, hooks, None) for hooks in _HOOKS)


def warn_of_skipped(skipped: Mapping[str, str], sites: Sequence[ConvSite]) -> None:
    """Warn once of the convolutions that stay static: their class, how their weight is computed, or who reads it."""
    if skipped and sites:
        reasons = some((f"{name} ({reason})" for name, reason in skipped.items()), 3)
        warnings.warn(
            f"dynamize leaves {len(skipped)} convolutions static that are more than an nn.Conv2d: {reasons}",
            stacklevel=3,
        )


def warn_of_dynamic(model: nn.Module, sites: Sequence[ConvSite]) -> None:
    """Warn if a policy for a whole network meets one in which some layers are dynamic already."""
    already = say_what_is_dynamic(model)
    if already and sites:
        warnings.warn(f"dynamize replaces {len(sites)} convolutions{already}, and stay as they are", stacklevel=3)


def skipped_convs(model: nn.Module) -> dict[str, str]:
    """Convolutions whose weight a dynamic layer could not take over, with the reason, by name."""
    found: dict[str, str] = {}
    owned: set[nn.Module] = set()
    for name, module in model.named_modules():
        if isinstance(module, (DynamicConv2d, CoefficientBranch)):
            owned.update(module.modules())
        if not isinstance(module, nn.Conv2d) or module in owned:
            continue
        if nn.utils.parametrize.is_parametrized(module):
            found[name] = "parametrized; torch.nn.utils.parametrize.remove_parametrizations makes it plain"
        elif isinstance(module, nn.LazyConv2d):
            found[name] = "lazy; run the model once first"
        elif type(module) is nn.Conv2d and not is_plain(module):
            found[name] = "its weight is computed by a hook: weight_norm, spectral_norm or prune; remove that first"
        elif has_own_methods(module):
            found[name] = "a method is replaced on the instance; accelerate.hooks.remove_hook_from_module takes it back"
        elif type(module) not in CONVERTIBLE:
            found[name] = f"{type(module).__name__}, a class of its own"
    return found


def say_who_reads(read: Mapping[str, str]) -> dict[str, str]:
    """A reason for each convolution of :func:`dyvision.convert._reads.readers_of`."""
    return {name: f"{reader}.forward reads its weight or bias itself" for name, reader in read.items()}


def dynamic_layers(model: nn.Module) -> list[str]:
    """Names and classes of the layers that are dynamic already."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, DynamicConv2d)}
    return [f"{name or 'the model itself'} ({type(layer).__name__})" for name, layer in layers.items()]


def say_what_is_dynamic(model: nn.Module) -> str:
    """A part of a message; empty if no layer is dynamic."""
    names = dynamic_layers(model)
    return f"; {len(names)} are dynamic already: {some(names, 3)}" if names else ""


def _has_tensor_hooks(conv: nn.Conv2d) -> bool:
    return any(getattr(p, hooks, None) for p in conv.parameters(recurse=False) for hooks in _TENSOR_HOOKS)


def _has_more(conv: nn.Conv2d) -> bool:
    return len(conv._parameters) > 2 or bool(conv._buffers) or bool(conv._modules)


def _tied(model: nn.Module, sites: Sequence[ConvSite]) -> list[str]:
    owners: dict[int, set[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(module)
    return [site.name for site in sites if any(len(owners[id(p)]) > 1 for p in site.conv.parameters(recurse=False))]
