"""Names to networks: timm's are looked up there, the others register a function that builds them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

import timm
from torch import nn

from dyvision.registry import OWN_NAMES, Registry
from dyvision.text import similar_names, suggestion

Builder = Callable[..., nn.Module]

_BUILDERS: dict[str, Builder] = {}
_REGISTRY = Registry(
    "backbone",
    _BUILDERS,
    ("backbone", "backbone_kwargs"),
    lambda name: "by timm" if timm.is_model(name) and name not in _BUILDERS else None,
)
_ALIASES: set[str] = set()
_REMOTE = ("hf-hub:", "hf_hub:", "local-dir:")

#: what ``list_backbones`` shows of timm: a selection, from small to large
TIMM_NAMES: tuple[str, ...] = (
    "convnext_atto",
    "convnext_base",
    "convnext_femto",
    "convnext_nano",
    "convnext_pico",
    "convnext_small",
    "convnext_tiny",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "mnasnet_100",
    "mobilenetv1_100",
    "mobilenetv2_035",
    "mobilenetv2_050",
    "mobilenetv2_075",
    "mobilenetv2_100",
    "mobilenetv2_110d",
    "mobilenetv2_120d",
    "mobilenetv2_140",
    "mobilenetv3_large_075",
    "mobilenetv3_large_100",
    "mobilenetv3_small_050",
    "mobilenetv3_small_075",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_medium",
    "mobilenetv4_conv_small",
    "regnetx_002",
    "regnetx_004",
    "regnetx_008",
    "regnetx_016",
    "regnetx_032",
    "regnety_002",
    "regnety_004",
    "regnety_008",
    "regnety_016",
    "regnety_032",
    "resnet10t",
    "resnet18",
    "resnet18d",
    "resnet34",
    "resnet50",
    "resnet50d",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "seresnet50",
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_resnet",
    "tf_efficientnet_b0",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "tf_mobilenetv3_large_100",
    "tf_mobilenetv3_small_100",
    "vgg16_bn",
    "wide_resnet50_2",
)


def register_backbone(name: str, listed: bool = True) -> Callable[[Builder], Builder]:
    """Decorator that gives a network a name.

    Args:
        name: The name for ``create_model`` and ``create_backbone``.
        listed: Whether ``list_backbones`` shows it; an alias is not shown.

    The decorated function takes ``num_classes`` (0: no classifier), ``in_chans``, ``pretrained`` and, only when they
    differ from their defaults, ``output_stride``, ``drop_rate`` and ``drop_path_rate``. It returns a classifier with
    timm's feature contract (see :class:`dyvision.backbones.Backbone`).

    Raises:
        ValueError: If the name is no word, or taken, here or by timm.
        TypeError: If what is registered cannot be called.
    """

    def check(builder: Builder) -> Builder:
        if not callable(builder):
            raise TypeError(f"backbone {name!r}: {builder!r} is no function that builds a network")
        if not listed:
            _ALIASES.add(name)
        return builder

    return _REGISTRY.decorator(name, check)


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of the backbones, in natural order (``resnet18`` before ``resnet101``).

    Args:
        pattern: Wildcard the name has to match, ``"*mobilenetv2*"``.

    Any other name that ``timm.create_model`` knows works as well; this list is the part that is tested.
    """
    own = set(_REGISTRY.names()) - _ALIASES
    known = timm.list_models()
    names = {name for name in TIMM_NAMES if name in known} | own
    return sorted((name for name in names if fnmatchcase(name, pattern)), key=_natural)


def find_builder(name: str) -> Builder | None:
    """The function registered for a name, or None for one of timm's.

    Raises:
        ValueError: If nobody knows the name, or the tag of its weights; the message gives the closest ones.
    """
    if name in _BUILDERS:
        return _BUILDERS[name]
    if not isinstance(name, str) or not name:
        raise ValueError(f"a backbone is chosen by its name, not by {name!r}; see dyvision.list_backbones()")
    if name.startswith(_REMOTE):
        return None
    if not timm.is_model(name) and (builder := _REGISTRY.find(name)) is not None:
        return builder
    if timm.is_model(name):  # a plug-in may have given it to timm
        _check_tag(name)
        return None
    close = similar_names(name, [*list_backbones(), *_BUILDERS], 4)
    close += [other for other in similar_names(name, timm.list_models()) if other not in close]
    raise ValueError(
        f"unknown backbone {name!r}{suggestion(close[:5]) or f'{OWN_NAMES}; see dyvision.list_backbones()'}"
    )


def _check_tag(name: str) -> None:
    """Check what timm names after a dot: which of several published weights."""
    network, dot, tag = name.partition(".")
    if not dot:
        return
    try:
        timm.get_pretrained_cfg(name, allow_unregistered=False)
        return
    except RuntimeError:
        tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{network}.*")]
    close = similar_names(tag, tags, 3) or tags[:3]
    known = f"give {' or '.join(f'{network}.{other}' for other in close)}, or" if close else "give"
    raise ValueError(f"backbone={name!r}: {network} has no weights named {tag!r}; {known} {network!r} alone")


def _natural(name: str) -> list[tuple[int, int | str]]:
    # "_050" and "_100" are widths: digits compare as numbers, which sorts them too
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
