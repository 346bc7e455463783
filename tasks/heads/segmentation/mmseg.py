"""mmseg's decode heads on any backbone: their inputs are filled in from the backbone's ``feature_info``.

``head: UPerHead`` or ``head: {type: UPerHead, channels: 128}``. mmseg is optional (``pip install "dyvision[mmseg]"``)
and imported when such a head is asked for.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from dyvision.tasks.components import check_arguments, closest

#: Types that work on feature maps alone, with what mmseg has no default for (values of its own configs). ``in_index``
#: "all", "last two" and "last three" stand for several inputs; without it a head reads one.
MMSEG_HEADS: dict[str, dict[str, Any]] = {
    "ANNHead": {"in_index": "last two", "project_channels": 256},
    "APCHead": {},
    "ASPPHead": {},
    "CCHead": {},
    "DMHead": {},
    "DNLHead": {},
    "DepthwiseSeparableASPPHead": {"c1_channels": 48},
    "DepthwiseSeparableFCNHead": {},
    "EMAHead": {"ema_channels": 256, "num_bases": 64, "num_stages": 3},
    "EncHead": {"in_index": "last three", "use_se_loss": False},
    "FCNHead": {},
    "FPNHead": {"in_index": "all"},
    "GCHead": {},
    "ISAHead": {"isa_channels": 256},
    "LRASPPHead": {"in_index": "last three", "input_transform": "multiple_select"},
    "LightHamHead": {"in_index": "last three"},
    "NLHead": {},
    "PSPHead": {},
    "SETRUPHead": {},
    "SegformerHead": {"in_index": "all"},
    "UPerHead": {"in_index": "all"},
}
_SEVERAL = {"last two": 2, "last three": 3}
#: the loss, and what is ignored, are arguments of the task
_NOT_HERE = ("ignore_index", "loss_decode", "out_channels", "sampler", "threshold")
_CHANNELS = 256


def is_multi_level(head_type: str) -> bool:
    """Whether a head fuses all levels of the backbone, so that the last one need not be dilated."""
    return MMSEG_HEADS.get(head_type, {}).get("in_index") == "all"


def build_mmseg_head(
    head_type: str,
    arguments: Mapping[str, Any],
    channels: Sequence[int],
    reduction: Sequence[int],
    default_level: int,
    num_classes: int,
) -> nn.Module:
    """Build a decode head of mmseg.

    Args:
        head_type: Its ``type`` in mmseg's registry.
        arguments: Of its constructor. Missing ones are filled in: ``in_index`` and ``in_channels`` from the backbone,
            ``channels`` 256, ``norm_cfg`` BatchNorm, and what mmseg itself has no default for.
        channels: Channels of each feature map.
        reduction: Stride of each.
        default_level: Level for a head with one input.
        num_classes: Number of classes.

    Raises:
        ImportError: If mmseg is not installed.
        ValueError: For an unknown type or argument, or one that does not fit the backbone.
    """
    _check_types(arguments, head_type)
    head_class = _find(head_type)
    misplaced = [name for name in _NOT_HERE if name in arguments]
    if misplaced:
        raise ValueError(
            f"{head_type}: {misplaced} has no effect here; the task computes the loss (its arguments loss, "
            "class_weights and ignore_index)"
        )
    defaults = dict(MMSEG_HEADS.get(head_type, {}))
    several = defaults.pop("in_index", None)
    filled: dict[str, Any] = {"num_classes": num_classes, "norm_cfg": {"type": "BN", "requires_grad": True}, **defaults}
    in_index = arguments.get("in_index", _levels(several, len(channels), default_level))
    levels = list(in_index) if isinstance(in_index, (list, tuple)) else [in_index]
    for level in levels:
        if not isinstance(level, int) or not -len(channels) <= level < len(channels):
            raise ValueError(f"{head_type}: in_index={in_index!r}, but the backbone has {len(channels)} levels")
    widths = [channels[level] for level in levels]
    one = not isinstance(in_index, (list, tuple))
    filled |= {"in_index": levels[0] if one else levels, "in_channels": widths[0] if one else widths}
    filled["channels"] = _CHANNELS
    if head_type == "DepthwiseSeparableASPPHead":
        filled["c1_in_channels"] = channels[0]
    elif head_type == "FPNHead":
        filled["feature_strides"] = [reduction[level] for level in levels]
    elif head_type == "LRASPPHead":
        filled["branch_channels"] = tuple(32 * 2**number for number in range(len(levels) - 1))
    elif not one and several is None and "input_transform" not in arguments:
        # of the heads that do not fix it themselves, FCN's family concatenates its inputs
        filled["input_transform"] = "resize_concat"
    complete = {**filled, **arguments}
    check_arguments(head_class, complete, f"mmseg head {head_type!r}")
    return _construct(head_class, head_type, complete)


def _check_types(value: Any, what: str) -> None:
    """Check that nested configurations name types of mmseg's registries only.

    mmengine imports whatever a dotted ``type`` names, other packages for a ``_scope_``, and unpickles the
    ``checkpoint`` of an ``init_cfg``.
    """
    if isinstance(value, Mapping):
        kind = value.get("type")
        if "type" in value and not (isinstance(kind, str) and kind.isidentifier()):
            raise ValueError(f"{what}: type={kind!r}: expected the name of a type in mmseg's registries, without dots")
        for name in ("_scope_", "custom_imports", "checkpoint"):
            if name in value:
                raise ValueError(f"{what}: {name} is not supported; weights are given as model.backbone_weights")
    for below in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        _check_types(below, what)


def _levels(several: str | None, count: int, default_level: int) -> int | list[int]:
    if several is None:
        return default_level
    return list(range(max(0, count - _SEVERAL.get(several, count)), count))


def _construct(head_class: Any, head_type: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # advice on losses and binary segmentation, which are the task's own business
            warnings.filterwarnings("ignore", message=".*(binary segmentation|avg_non_ignore).*")
            head: Any = head_class(**arguments)
    # constructors reject arguments in every possible way, mostly by assertions without a text
    except Exception as error:
        given = ", ".join(f"{name}={arguments[name]!r}" for name in ("in_channels", "in_index", "channels"))
        reason = str(error) or "an assertion failed"
        raise ValueError(
            f"mmseg head {head_type!r} does not accept {given} and its other arguments: {reason}"
        ) from error
    with _quiet():
        head.init_weights()
    return head


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence mmengine's logger, which reports every initialised tensor."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _find(head_type: str) -> Any:
    try:
        with warnings.catch_warnings():
            # mmcv without compiled operators says so on import; the heads that need them say it again
            warnings.simplefilter("ignore")
            from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
            from mmseg.models.decode_heads.decode_head import BaseDecodeHead
            from mmseg.registry import MODELS
    except ImportError as error:
        raise ImportError(
            f'head {head_type!r} is one of mmseg, which is not installed ({error}): pip install "dyvision[mmseg]"'
        ) from error
    heads = {
        name: value
        for name, value in MODELS.module_dict.items()
        if inspect.isclass(value) and issubclass(value, BaseDecodeHead)
    }
    if head_type not in heads:
        raise ValueError(f"unknown mmseg head {head_type!r}; {closest(head_type, list(heads))}")
    if issubclass(heads[head_type], BaseCascadeDecodeHead):
        raise ValueError(
            f"mmseg head {head_type!r} refines the output of another head (a cascade), which this task does not do; "
            "use one that works alone, such as 'ASPPHead' or 'UPerHead'"
        )
    return heads[head_type]
