"""An exported file beside the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dyvision.export.session import open_session, run


class Agreement(NamedTuple):
    """One comparison.

    Attributes:
        shape: Of the images, ``[B, C, H, W]``.
        error: Largest difference from the network's outputs, over the largest number of that output.
    """

    shape: tuple[int, ...]
    error: float


def compare(
    path: Path, network: Callable[[Tensor], list[Tensor]], shapes: Sequence[tuple[int, ...]], dtype: torch.dtype
) -> list[Agreement]:
    """Run a file and the network on different images of each shape, twice each.

    The second call has other images than the first: a file that kept anything of the images it was made with, or of the
    first of a batch, differs.

    Raises:
        ValueError: If the file cannot be run.
    """
    session = open_session(path)
    random = torch.Generator().manual_seed(0)
    found = []
    for shape in shapes:
        for _ in range(2):
            # images that differ in their means as well: coefficients depend on these first
            images = torch.randn(shape, generator=random) + torch.randn(shape[0], shape[1], 1, 1, generator=random)
            images = images.to(dtype)
            with torch.no_grad():
                expected = network(images)
            found.append(Agreement(shape, largest_error(run(session, images), expected)))
    return found


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference over the largest number of its output; infinite where shapes or numbers do not compare."""
    if len(found) != len(expected):
        return float("inf")
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return float("inf")
        if one.numel():
            difference, scale = (one.double() - other.double()).abs().max(), other.double().abs().max()
            error = float(difference / scale) if scale > 0 else float(difference)
            worst = max(worst, error) if error == error else float("inf")  # not a number: no agreement
    return worst
