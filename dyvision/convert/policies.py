"""Which convolutions of a network become dynamic.

A policy is a name of :func:`list_policies`, one or several wildcard patterns over module names (``"layer4.*"``), or a
function of ``(name, conv)``. Each published method has a policy of its own name: what its paper replaced, carried over
to networks the paper did not try. Convolutions inside attention modules (squeeze-excite and the like), classifiers and
the predictors of heads are never made dynamic, whatever the policy; CondConv's and DCD's dynamic classifiers are an
option of ``create_model``. What is on top of a backbone (pyramids, decoders, heads) only if ``all``, a pattern or a
function asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from dyvision.convert._handover import say_what_is_dynamic, skipped_convs
from dyvision.convert._parts import say_left_alone
from dyvision.convert._sites import ConvSite, find_convs
from dyvision.layers import DynamicConv2d
from dyvision.text import did_you_mean, some

Policy = str | Sequence[str] | Callable[[str, nn.Conv2d], bool]

_NEVER = ("attention", "classifier", "predictor")
#: the policy that is for the whole network, and not for its backbone
_EVERYTHING = "all"


def _all(sites: Sequence[ConvSite]) -> list[ConvSite]:
    return list(sites)


def _blocks(sites: Sequence[ConvSite]) -> list[ConvSite]:
    return [site for site in sites if site.role == "block"]


def _pointwise(sites: Sequence[ConvSite]) -> list[ConvSite]:
    return [site for site in _blocks(sites) if site.pointwise]


def _spatial(sites: Sequence[ConvSite]) -> list[ConvSite]:
    return [site for site in _blocks(sites) if not site.pointwise]


def _dyconv(sites: Sequence[ConvSite]) -> list[ConvSite]:
    """Every convolution except the first (Chen et al. 2020, section 4); deep stems count as the first."""
    return [site for site in sites if site.role != "stem"]


def _condconv(sites: Sequence[ConvSite]) -> list[ConvSite]:
    """Every convolution in the last blocks (Yang et al. 2019, section 4).

    MobileNetV2 (inverted residuals, depthwise 3x3 only, no attention): the last 6 blocks. EfficientNet (inverted
    residuals otherwise): the last three stages. Networks the paper did not try: the last third of the blocks.
    """
    in_blocks = _blocks(sites)
    blocks = list(dict.fromkeys(site.block for site in in_blocks))
    # ShuffleNetV2's blocks carry the class name too, but nothing in them narrows
    narrows = any(site.pointwise and site.conv.out_channels < site.conv.in_channels for site in in_blocks)
    inverted = any(re.search("InvertedResidual$|M[Bb]Conv$", site.block_class) and site.depthwise for site in in_blocks)
    if len(blocks) < 2:
        return in_blocks
    last_third = blocks[-max(1, round(len(blocks) / 3)) :]
    if inverted and narrows:
        attention = any(site.role == "attention" for site in sites)
        if not attention and all(site.conv.kernel_size == (3, 3) for site in in_blocks if site.depthwise):
            chosen = blocks[-6:]
        else:
            stages = {site.block: site.stage for site in in_blocks}
            last_three = list(dict.fromkeys(stages.values()))[-3:]
            several = len(set(stages.values())) > 3
            chosen = [block for block in blocks if stages[block] in last_three] if several else last_third
    else:
        chosen = last_third
    return [site for site in in_blocks if site.block in chosen]


def _dcd(sites: Sequence[ConvSite]) -> list[ConvSite]:
    """Dense convolutions in blocks (Li et al. 2021, section 4).

    Blocks around a depthwise convolution: their dense 1x1 convolutions, if there is one before and one after it (so
    MobileNetV2's first block, which does not expand, stays static). Other blocks: every dense convolution. A network
    whose blocks offer nothing of the kind falls back to the dense 1x1 convolutions, then to any convolution, in blocks.
    """
    in_blocks = _blocks(sites)
    grouped: dict[str | None, list[ConvSite]] = {}
    for site in in_blocks:
        grouped.setdefault(site.block, []).append(site)
    separable = any(site.depthwise for site in in_blocks)
    chosen: list[ConvSite] = []
    for block, members in grouped.items():
        dense = [site for site in members if site.dense]
        if block is None or not separable:
            chosen += dense
        elif any(site.depthwise for site in members):
            dense_pointwise = [site for site in dense if site.pointwise]
            chosen += dense_pointwise if len(dense_pointwise) > 1 else []
        elif len(members) > 1:  # a lone convolution among inverted residuals is the head's 1x1
            chosen += dense
    return chosen or [site for site in in_blocks if site.dense and site.pointwise] or in_blocks


def _odconv(sites: Sequence[ConvSite]) -> list[ConvSite]:
    """Li et al. 2022, official models: every convolution but the stem of MobileNetV2; of ResNets, those in blocks."""
    in_blocks = _blocks(sites)
    return _dyconv(sites) if any(site.depthwise for site in in_blocks) else in_blocks


def _drconv(sites: Sequence[ConvSite]) -> list[ConvSite]:
    """The 1x1 convolutions of separable blocks, as in the networks of Chen et al. 2021; of other blocks the k x k.

    The generator has ``R^2`` parameters per weight, 64 with 8 regions: everything in ResNet-50 would be 782 M.
    """
    in_blocks = _blocks(sites)
    pointwise = _pointwise(sites) if any(site.depthwise for site in in_blocks) else []
    return pointwise or _spatial(sites) or in_blocks


def _block_ends(sites: Sequence[ConvSite]) -> list[ConvSite]:
    """The last convolution of each block, whose output is added to the shortcut (Hu et al. 2018, figure 3)."""
    last = {site.block: site for site in _blocks(sites)}
    return list(last.values())


_POLICIES: dict[str, Callable[[Sequence[ConvSite]], list[ConvSite]]] = {
    "all": _all,
    "block_ends": _block_ends,
    "blocks": _blocks,
    "condconv": _condconv,
    "dcd": _dcd,
    "drconv": _drconv,
    "dyconv": _dyconv,
    "dynet": _blocks,  # Zhang et al. 2020: every convolution of the residual blocks; shortcuts static
    "eca": _block_ends,
    "odconv": _odconv,
    "pointwise": _pointwise,
    "se": _block_ends,
    "sk": _spatial,  # Li et al. 2019: the 3x3 of a bottleneck
    "spatial": _spatial,
}


def list_policies() -> list[str]:
    """Names of the policies that :func:`dyvision.dynamize` knows, sorted.

    * ``all``: every convolution, the stem, pyramids, decoders and heads included; the others are for the backbone.
    * ``blocks``: every convolution on the main path of a block; ``pointwise``: of these the 1x1; ``spatial``: the
      others; ``block_ends``: the last of each block.
    * ``condconv``, ``dcd``, ``drconv``, ``dyconv``, ``dynet``, ``eca``, ``odconv``, ``se``, ``sk``: what the method's
      paper replaced, the default of the layer of that name. Layers without a policy of their own use ``blocks``.
    """
    return sorted(_POLICIES)


def default_policy(layer: str) -> str:
    """Name of the policy used for a layer when none is given."""
    return layer if layer in _POLICIES else "blocks"


def select_convs(model: nn.Module, policy: Policy) -> list[ConvSite]:
    """The convolutions of a model that a policy makes dynamic, in order of registration.

    Args:
        model: Any module.
        policy: A name of :func:`list_policies`; a wildcard pattern or a sequence of them, matched against module names;
            or a function of ``(name, conv)``.

    Raises:
        ValueError: If a pattern matches no convolution or a name is unknown (with the closest names), or if nothing is
            selected.
        TypeError: If ``policy`` is none of the above.
    """
    sites = [site for site in find_convs(model) if site.role not in _NEVER]
    already = [name for name, layer in model.named_modules() if isinstance(layer, DynamicConv2d)]
    if isinstance(policy, str):
        known = policy in _POLICIES
        # a policy that counts blocks counts those that are dynamic already
        chosen = _selected(policy, find_convs(model, dynamic=True)) if known else _matching(sites, [policy], already)
        chosen = [site for site in chosen if site.role not in _NEVER and site.name not in already]
    elif isinstance(policy, Sequence) and all(isinstance(pattern, str) for pattern in policy):
        chosen = _matching(sites, policy, already)
    elif callable(policy):
        chosen = [site for site in sites if policy(site.name, site.conv)]
    else:
        raise TypeError(
            f"policy must be a name ({', '.join(list_policies())}), wildcard patterns or a function of (name, conv), "
            f"not {policy!r}"
        )
    if not chosen:
        raise ValueError(_nothing(model, policy, len(sites)))
    return chosen


def left_alone(model: nn.Module, policy: Policy) -> dict[str, str]:
    """Convolutions of pyramids, decoders and heads, which a policy for the backbone does not look at, and why."""
    if not isinstance(policy, str) or policy not in _POLICIES or policy == _EVERYTHING:
        return {}
    sites = [site for site in find_convs(model) if site.role == "part"]
    return {site.name: say_left_alone(site.part or "", site.part_kind) for site in sites}


def _selected(policy: str, sites: Sequence[ConvSite]) -> list[ConvSite]:
    backbone = [site for site in sites if site.part is None]
    return _POLICIES[policy](sites if policy == _EVERYTHING else backbone)


def _matching(sites: Sequence[ConvSite], patterns: Sequence[str], already: Sequence[str]) -> list[ConvSite]:
    names = [site.name for site in sites]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = did_you_mean(pattern, [*list_policies(), *names], 4)
            dynamic = [name for name in already if fnmatchcase(name, pattern)]
            hint = f"; {some(dynamic, 3)} matches but is dynamic already" if dynamic else hint
            raise ValueError(
                f"policy {pattern!r} is neither a policy ({', '.join(list_policies())}) nor matches the name of a "
                f"convolution that can become dynamic{hint}"
            )
    return [site for site in sites if any(fnmatchcase(site.name, pattern) for pattern in patterns)]


def _others(model: nn.Module) -> str:
    """The policies that would select something, and how many convolutions."""
    sites = find_convs(model, dynamic=True)
    dynamic = {name for name, layer in model.named_modules() if isinstance(layer, DynamicConv2d)}
    counts: dict[int, list[str]] = {}
    every = 0
    for name in list_policies():
        chosen = [site for site in _selected(name, sites) if site.role not in _NEVER and site.name not in dynamic]
        if name == _EVERYTHING:
            every = len(chosen)
        elif chosen:
            counts.setdefault(len(chosen), []).append(name)
    listed = "; ".join(f"{', '.join(names)} ({count})" for count, names in sorted(counts.items()))
    return f"try policy='all', which selects {every}{f', or {listed}' if listed else ''}"


def _nothing(model: nn.Module, policy: Policy, available: int) -> str:
    what = f"policy {policy!r}" if isinstance(policy, str) else "the given policy"
    already = say_what_is_dynamic(model)
    if available:
        static = "static convolutions" if already else "convolutions"
        return f"{what} selects none of the {available} {static} of {type(model).__name__}{already}; {_others(model)}"
    skipped = "".join(f"; {name or 'it'}: {reason}" for name, reason in list(skipped_convs(model).items())[:3])
    return (
        f"{type(model).__name__} has no convolution that can become dynamic (plain nn.Conv2d outside attention "
        f"modules, classifiers, predictors and layers that are dynamic already){already}{skipped}"
    )
