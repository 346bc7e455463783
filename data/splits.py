"""Which images validate: a fraction of the training images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def choose_validation(
    names: Sequence[str], fraction: float, seed: int = 0, strata: Sequence[int] | None = None
) -> list[int]:
    """Chooses samples for validation.

    Names are ordered by a hash, within each class, and every ``1 / fraction``-th is taken. So the choice depends on the
    names and the seed only, not on the order of the files, and every class has its share. A class with one sample keeps
    it for training.

    Args:
        names: Of all samples, different from each other.
        fraction: How many, in (0, 1).
        seed: Another one gives another choice.
        strata: Class of each sample; None treats all alike.

    Returns:
        Positions, ascending; at least one, and not all of any class.

    Raises:
        ValueError: If there are fewer than two samples.
    """
    if len(names) < 2:
        raise ValueError(f"{len(names)} samples cannot be divided into training and validation")
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(names)):
        groups[0 if strata is None else strata[position]].append(position)
    if all(len(group) < 2 for group in groups.values()):
        groups = {0: list(range(len(names)))}
    chosen: list[int] = []
    due = 0.5  # the rounding of one class is made up for in the next
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda position: _digest(names[position], seed))
        due += fraction * len(group) if len(group) > 1 else 0
        take = min(int(due), len(group) - 1)
        chosen += group[:take]
        due -= take
    if not chosen:
        largest = max(groups.values(), key=len)
        chosen = [min(largest, key=lambda position: _digest(names[position], seed))]
    return sorted(chosen)


def _digest(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
