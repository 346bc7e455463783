"""Ranges of the heads' arguments: a name means the same in every head, so there is one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyvision.arguments import check_flag, check_number, check_numbers

_WIDTH: dict[str, Any] = {"minimum": 1, "maximum": 65_536, "integer": True}
_COUNT: dict[str, Any] = {"minimum": 1, "maximum": 1_000_000, "integer": True}
_DEPTH: dict[str, Any] = {"minimum": 0, "maximum": 64, "integer": True}
_SHARE: dict[str, Any] = {"minimum": 0, "maximum": 1}

_NUMBERS: dict[str, dict[str, Any]] = {
    # segmentation
    "channels": _WIDTH | {"allow_none": True},
    "dropout": {"minimum": 0, "below": 1},
    # pyramid and anchors
    "fpn_channels": _WIDTH,
    "min_reduction": _COUNT,
    "num_convs": _DEPTH,
    "anchor_scale": {"above": 0, "maximum": 1000},
    "topk_candidates": _COUNT,
    # dense heads
    "prior_probability": {"above": 0, "below": 1},
    "fg_iou_threshold": _SHARE,
    "bg_iou_threshold": _SHARE,
    "center_sampling_radius": {"above": 0, "maximum": 1000},
    # two stages
    "rpn_convs": _DEPTH | {"minimum": 1},
    "rpn_batch_size_per_image": _COUNT,
    "rpn_proposals_train": _COUNT,
    "rpn_proposals_test": _COUNT,
    "box_batch_size_per_image": _COUNT,
    "box_resolution": _COUNT | {"maximum": 128},
    "representation_size": _WIDTH,
    # masks
    "mask_convs": _DEPTH,
    "mask_channels": _WIDTH,
    "mask_resolution": _COUNT | {"maximum": 128},
    "mask_features": _WIDTH,
    "mask_layers": _DEPTH | {"minimum": 1},
    "mask_width": _WIDTH,
    "masks_per_image": _COUNT,
    # SSDLite
    "num_levels": _DEPTH | {"minimum": 1},
    "min_ratio": {"above": 0, "maximum": 10},
    "max_ratio": {"above": 0, "maximum": 10},
    "iou_threshold": _SHARE,
    "positive_fraction": {"above": 0, "maximum": 1},
}
_LISTS: dict[str, dict[str, Any]] = {
    "atrous_rates": {"minimum": 1, "maximum": 1024, "integer": True},
    "aspect_ratios": {"above": 0, "maximum": 100},
    "extra_channels": _WIDTH,
}


def check_head_arguments(arguments: Mapping[str, Any], head: str) -> None:
    """Check what was given to one of our heads, before anything is built.

    Args:
        arguments: By name; those that the table does not know are left to the head.
        head: What to call the head in messages, such as ``"head 'fcos'"``.

    Raises:
        ValueError: If a value is no number or out of range.
    """
    for name, value in arguments.items():
        what = f"{head}: {name}"
        if name in _NUMBERS:
            check_number(what, value, **_NUMBERS[name])
        elif name in _LISTS:
            check_numbers(what, value, **_LISTS[name])
        elif name == "extra_levels":
            check_flag(what, value)
        elif name == "anchor_sizes" and value is not None:
            _check_sizes(what, value)
    lower, upper = arguments.get("bg_iou_threshold", 0.4), arguments.get("fg_iou_threshold", 0.5)
    if ("bg_iou_threshold" in arguments or "fg_iou_threshold" in arguments) and lower > upper:
        raise ValueError(f"{head}: bg_iou_threshold={lower!r}: expected at most fg_iou_threshold={upper!r}")


def _check_sizes(what: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{what}={value!r}: expected a list, per level of the pyramid one size in pixels or several")
    for level, sizes in enumerate(value):
        several = isinstance(sizes, (list, tuple))
        check_numbers(f"{what}[{level}]", sizes if several else [sizes], above=0, maximum=65_536)
