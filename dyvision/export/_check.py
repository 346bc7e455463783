"""An exported file beside the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dyvision.export._outputs import outputs_of
from dyvision.export.deciding import DecidingNetwork
from dyvision.export.session import open_session, run

#: what is wrong with the outputs of a file for images
Judge = Callable[[Tensor, list[Tensor]], float]


class Agreement(NamedTuple):
    """One comparison.

    Attributes:
        shape: Of the images, ``[B, C, H, W]``.
        error: Largest difference from the network's outputs, over the largest number of that output.
    """

    shape: tuple[int, ...]
    error: float


def compare(
    path: Path,
    error: Judge,
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype,
) -> list[Agreement]:
    """Run a file on different images of each shape, twice each.

    The second call has other images than the first: a file that kept anything of the images it was made with, or of the
    first of a batch, differs.

    Args:
        path: The file.
        error: What is wrong with its outputs for given images, beside those of the network.
        shapes: Of the images.
        dtype: Of the images.

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
            found.append(Agreement(shape, error(images, run(session, images))))
    return found


def judge(network: nn.Module, tolerance: float) -> Judge:
    """Compare with the outputs of a network; of one that decides, with what follows from its numbers."""

    def error(images: Tensor, found: list[Tensor]) -> float:
        if not isinstance(network, DecidingNetwork):
            return largest_error(found, list(outputs_of(network, images).values()))
        with torch.no_grad():
            return network.disagreement(
                network.dense(images), dict(zip(network.outputs, found, strict=True)), tolerance
            )

    return error


def judge_numbers(network: DecidingNetwork) -> Judge:
    """Compare what a file returns behind its decisions with the numbers that the network decides by."""
    return lambda images, found: largest_error(
        found[len(network.outputs) :], list(outputs_of(network.dense, images).values())
    )


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
