"""What a pass of a convolution does, as amounts of which every machine has a rate.

The time of a formulation is estimated as the sum over its terms of ``coefficient * amount * rate``: the amounts follow
from the shapes, beside the formulation (its ``work``); the rates are the machine's (``rates.py``); the coefficients
have no unit and are the same everywhere (``planner.json``, fitted by ``benchmarks/fit_planner.py``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dyvision.ops.problem import Problem

#: numbers of a vector, which libraries compute channels or pixels by
VECTOR = 16
#: bytes from which about half of a tensor is no longer in a cache when it is read again
CACHED = 2**24
#: bytes from which memory for a tensor comes from the system, page by page, each time
FRESH = 2**25


class Rates(NamedTuple):
    """Seconds per unit of work on one machine, with its number of threads.

    Attributes:
        call: One small operation, from Python.
        product: A multiply-add of a batch of large matrix products.
        convolution: A multiply-add of a library convolution of many channels.
        depthwise: A multiply-add of a depthwise library convolution.
        native: A multiply-add of a native kernel.
        cache: A byte read or written where it stays in a cache.
        memory: A byte read from or written to memory.
        fresh: A byte of memory that the system has to give first.
    """

    call: float
    product: float
    convolution: float
    depthwise: float
    native: float
    cache: float
    memory: float
    fresh: float


class Term(NamedTuple):
    """One part of the work: an amount, and the field of :class:`Rates` that it is multiplied by."""

    rate: str
    amount: float


#: terms by name; a coefficient belongs to each name
Work = dict[str, Term]


class Sizes(NamedTuple):
    """A problem's sizes, as its work depends on them.

    Attributes:
        batch: Samples.
        groups: Groups of each sample.
        inputs: Input channels of a group.
        outputs: Output channels of a group.
        taps: Of the kernel.
        rows: Of the output map.
        pixels: Of the output map.
        padded: Pixels of the padded input map.
        banks: Kernels K that are mixed; B if they are given.
    """

    batch: int
    groups: int
    inputs: int
    outputs: int
    taps: int
    rows: int
    pixels: int
    padded: int
    banks: int


def sizes_of(problem: Problem) -> Sizes:
    """The sizes of a problem."""
    geometry = problem.geometry
    height, width = geometry.output_size(problem.size, problem.kernel)
    padded = [side + 2 * pad for side, pad in zip(problem.size, geometry.padding, strict=True)]
    return Sizes(
        batch=problem.batch,
        groups=geometry.groups,
        inputs=problem.in_channels // geometry.groups,
        outputs=problem.out_channels // geometry.groups,
        taps=math.prod(problem.kernel),
        rows=height,
        pixels=height * width,
        padded=math.prod(padded),
        banks=problem.mixed or problem.batch,
    )


def calls(count: float) -> Work:
    """So many operations."""
    return {"calls": Term("call", count)}


def moved(name: str, numbers: float) -> Work:
    """A tensor that is read or written: from a cache, and the more from memory the larger it is."""
    size = 4 * numbers
    return {
        name: Term("cache", size),
        f"{name}, memory": Term("memory", size * size / (size + CACHED)),
    }


def maps(s: Sizes) -> Work:
    """The input and the output of all samples."""
    samples = s.batch * s.groups
    return moved("input", samples * s.inputs * s.padded) | moved("output", samples * s.outputs * s.pixels)


def kernels(s: Sizes) -> Work:
    """The kernels of all samples, mixed and read."""
    return moved("kernels", s.batch * s.groups * s.outputs * s.inputs * s.taps)


def convolutions(s: Sizes, count: int, images: int, groups: int) -> Work:
    """Library convolutions.

    The library computes blocks of channels, for which all tensors are stored in another order first. Where the channels
    of a group are not a multiple of a vector, blocks are smaller, and in odd numbers the input is unfolded instead.

    Args:
        s: Sizes, of which those of a group count.
        count: Convolutions.
        images: Of each one.
        groups: Of each one.
    """
    parts = count * images * groups
    if s.inputs == s.outputs == 1:
        return calls(count) | {
            "taps": Term("depthwise", parts * s.taps * s.pixels),
            "ends of rows": Term("depthwise", parts * s.taps * s.rows * VECTOR / 2),
            "groups": Term("call", parts / 100),
        }
    lanes = VECTOR if groups == 1 else _common_lanes(s.inputs, s.outputs)
    if lanes == 1:
        return calls(count) | products(s, parts) | unfolded(s, parts)
    inputs = s.inputs if s.inputs < 4 else _up(s.inputs, lanes)
    multiplied = parts * inputs * _up(s.outputs, lanes) * s.taps
    return calls(count) | {
        f"blocks of {lanes}": Term("convolution", multiplied * s.pixels * VECTOR / lanes),
        "ends of rows": Term("convolution", multiplied * s.rows * VECTOR / 2),
        "few inputs": Term("convolution", parts * s.outputs * s.pixels * s.taps * VECTOR),
        "few pixels": Term("convolution", multiplied * VECTOR),
        "one of two threads": Term("convolution", multiplied * s.pixels / groups if groups % 2 else 0.0),
        "groups": Term("call", parts / 100),
    }


def products(s: Sizes, count: int) -> Work:
    """So many matrix products ``[outputs, inputs * taps] x [inputs * taps, pixels]``.

    Besides the multiply-adds, of whole blocks, all three matrices are packed or stored block by block, which counts
    where one of the three sizes is small. One product alone is shared by the threads in another way than a batch of
    them.
    """
    inner, alone = s.inputs * s.taps, "" if count > 1 else ", one"
    parts = count if count == 1 else _up(count, 2)
    return {
        f"products{alone}": Term("product", parts * _up(s.outputs, VECTOR) * _up(s.pixels, VECTOR) * inner),
        f"few outputs{alone}": Term("product", parts * inner * s.pixels * VECTOR),
        f"few inputs{alone}": Term("product", parts * s.outputs * s.pixels * VECTOR),
        f"few pixels{alone}": Term("product", parts * s.outputs * inner * VECTOR),
        "matrices": Term("call", count / 10),
    }


def unfolded(s: Sizes, count: int) -> Work:
    """The unfolded input of so many groups: row by row written, and read again."""
    numbers = count * s.inputs * s.taps * s.pixels
    return moved("columns", numbers) | {
        "rows": Term("cache", 4 * VECTOR * count * s.inputs * s.taps * s.rows),
        "columns, fresh": Term("fresh", 4.0 * numbers if 4 * numbers > FRESH else 0.0),
    }


def _common_lanes(inputs: int, outputs: int) -> int:
    return next((lanes for lanes in (16, 8, 4) if inputs % lanes == outputs % lanes == 0), 1)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
