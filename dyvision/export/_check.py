"""An exported file beside the network that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dyvision.export._network import Images, dtype_of
from dyvision.export._outputs import outputs_of
from dyvision.export.deciding import DecidingNetwork
from dyvision.text import first_line, printable

#: How many times PyTorch's own rounding a file may differ by: it adds up in another order, in each of its layers.
_ROUNDINGS = 4
#: How many times the tolerance that may be, at most.
_MOST = 10
#: Runs a file: all its outputs for a batch of images.
Runner = Callable[[Tensor], list[Tensor]]
#: What is wrong with the outputs of a file for images.
Judge = Callable[[Tensor, list[Tensor]], float]


class Agreement(NamedTuple):
    """One comparison.

    Attributes:
        shape: Of the images, ``[B, C, H, W]``.
        error: Largest difference from the network's outputs, over the largest number of that output.
    """

    shape: tuple[int, ...]
    error: float


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """An exported file.

    Attributes:
        path: The file.
        seconds: How long the export took, the check included.
        checked: Shapes of images and errors; none if it was not checked.
    """

    path: Path
    seconds: float
    checked: tuple[Agreement, ...] = ()

    @property
    def error(self) -> float | None:
        """The largest difference from PyTorch over the largest number of an output; None if it was not checked."""
        return max((one.error for one in self.checked), default=None)

    @property
    def kind(self) -> str:
        """What it is, for a line about it."""
        raise NotImplementedError

    @property
    def program(self) -> str:
        """What runs it."""
        raise NotImplementedError

    @property
    def beside(self) -> Path | None:
        """Where parameters are that are not in the file itself; None if there are no such."""
        return None

    @property
    def bytes(self) -> int:
        """Size of the file, with what lies beside it."""
        return sum(one.stat().st_size for one in (self.path, self.beside) if one is not None and one.is_file())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        own = {name: value for name, value in vars(self).items() if name not in ("path", "checked")}
        checked = [{"shape": list(one.shape), "error": one.error} for one in self.checked]
        return {"file": str(self.path), "bytes": self.bytes, "error": self.error, **own, "checked": checked}

    def runner(self, threads: int | None = None) -> Runner:
        """Load it, and what runs it: all outputs for a batch of images.

        Args:
            threads: For the program, if that has threads of its own.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        checked = "not checked"
        if self.error is not None:
            batches = ", ".join(sorted({"x".join(map(str, one.shape)) for one in self.checked}))
            checked = f"largest error {self.error:.1e} ({batches})"
        return f"{self.path}: {self.kind}, {self.seconds:.0f} s, {checked}"


def check(
    name: Path,
    program: str,
    run: Runner,
    network: nn.Module,
    images: Images,
    tolerance: float,
    error: Judge | None = None,
) -> tuple[Agreement, ...]:
    """Run a file on different images of each shape, twice each.

    The second call has other images than the first: a file that kept anything of the images it was made with, or of the
    first of a batch, differs.

    Args:
        name: What the file will be called.
        program: What runs it, for the message.
        run: Runs the file.
        network: What it was made from.
        images: What it takes.
        tolerance: Largest difference allowed; more where PyTorch's own rounding is as large.
        error: What is wrong with its outputs; by default :func:`judge`.

    Raises:
        ValueError: If the outputs differ by more, or the file cannot be run.
    """
    random = torch.Generator().manual_seed(0)
    error = error or judge(network, tolerance)
    found = []
    for shape in images.shapes_to_check(network):
        for _ in range(2):
            batch = images.draw(shape, dtype_of(network), random)
            try:
                outputs = run(batch)
            except Exception as reason:  # of a program with errors of its own
                raise ValueError(
                    f"{name} was not written: {program} failed for images of shape {list(shape)}: "
                    f"{printable(first_line(reason))}"
                ) from reason
            found.append(Agreement(shape, error(batch, outputs)))
            if not found[-1].error <= tolerance:
                rounding = _rounding(network, batch)
                if rounding == float("inf") or not found[-1].error <= min(_ROUNDINGS * rounding, _MOST * tolerance):
                    raise ValueError(f"{name} was not written: {_refusal(found[-1], program, tolerance, rounding)}")
    return tuple(found)


def _rounding(network: nn.Module, images: Tensor) -> float:
    """How far PyTorch's own outputs are from those of double precision; 0 for networks that it cannot be told of.

    Infinite if they are no numbers.
    """
    numbers = network.dense if isinstance(network, DecidingNetwork) else network
    own = list(outputs_of(numbers, images).values())
    if not all(bool(one.isfinite().all()) for one in own):
        return float("inf")
    if numbers is not network:
        return 0.0
    try:
        precise = copy.deepcopy(network).double()
        exact = list(outputs_of(precise, images.double() if images.is_floating_point() else images).values())
    # foreign code, of which something may be of one type whatever the parameters are; nothing is excused then
    except Exception:
        return 0.0
    return largest_error(own, exact)


def _refusal(one: Agreement, program: str, tolerance: float, rounding: float) -> str:
    if rounding == float("inf"):
        return (
            "PyTorch's own outputs for random images are not finite: weights or statistics of norms let the network "
            "overflow"
        )
    text = (
        f"for images of shape {list(one.shape)} {program}'s output differs from PyTorch's by {one.error:.1e} of its "
        f"largest number (tolerance={tolerance:g})"
    )
    if rounding > tolerance:
        text += (
            f"; rounding decides what this network computes: PyTorch's own output differs by {rounding:.1e} from "
            "that in double precision (was it trained?)"
        )
    return text


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
    """The largest difference over the largest number of its output; infinite where shapes or numbers do not compare.

    Of integers, such as label maps, the share that differs: where two classes are as probable as each other, rounding
    decides.
    """
    if len(found) != len(expected):
        return float("inf")
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return float("inf")
        if one.numel():
            if not other.is_floating_point():
                worst = max(worst, float((one != other).double().mean()))
                continue
            difference, scale = (one.double() - other.double()).abs().max(), other.double().abs().max()
            error = float(difference / scale) if scale > 0 else float(difference)
            worst = max(worst, error) if error == error else float("inf")  # not a number: no agreement
    return worst
