"""Anchor sizes per pyramid level."""

from __future__ import annotations

from collections.abc import Sequence


def level_sizes(
    given: Sequence[float | Sequence[float]] | None, defaults: Sequence[Sequence[float]], reductions: Sequence[int]
) -> tuple[tuple[float, ...], ...]:
    """Complete and check the anchor sizes of a feature pyramid.

    Args:
        given: Sizes in pixels from the user, per level a number or several; None for the defaults.
        defaults: Default sizes per level.
        reductions: Reduction of each level, for the message.

    Returns:
        One tuple of sizes per level, all of one length.

    Raises:
        ValueError: If the number of levels or of sizes per level is wrong, or a size is too small.
    """
    levels = defaults if given is None else [[size] if isinstance(size, int | float) else list(size) for size in given]
    if len(levels) != len(reductions):
        raise ValueError(
            f"anchor_sizes has {len(levels)} entries, the pyramid {len(reductions)} levels (reductions "
            f"{', '.join(map(str, reductions))}); give one entry per level."
        )
    if len({len(sizes) for sizes in levels}) != 1 or not levels[0]:
        raise ValueError(f"anchor_sizes={given!r}: the head is shared, so every level needs the same number of sizes.")
    # torchvision rounds half the side of an anchor to whole pixels, so anything below 2 can end up empty
    if min(min(sizes) for sizes in levels) < 2:
        raise ValueError(f"anchor sizes {[*map(list, levels)]}: expected at least 2 pixels; raise anchor_scale.")
    return tuple(tuple(sizes) for sizes in levels)
