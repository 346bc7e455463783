"""How long a file and PyTorch take, for the network and its static twin, measured in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dyvision.analysis.benchmark import compare
from dyvision.analysis.benchmark.measure import limited_threads
from dyvision.export import ExportedFile, Images
from dyvision.ops.geometry import pair
from dyvision.tables import NAME, FittingTable
from dyvision.tasks.base import BaseTask
from dyvision.tasks.exporting.export import export_task, exportable, static_twin

#: arguments of an export that its network depends on
_OF_THE_NETWORK = ("image_size", "preprocess", "postprocess", "fuse", "mean", "std")
#: rounds of a comparison, and seconds after which it ends
_ROUNDS, _BUDGET = 41, 20.0


class Latency(NamedTuple):
    """Time of one call, in milliseconds.

    Attributes:
        program: What runs the network.
        network: Which one: its layer.
        median: Over the rounds.
        low: 10th percentile.
        high: 90th percentile.
        over_static: Median over the rounds of the time over that of the static twin in the same program; None for the
            twin itself, and without one.
    """

    program: str
    network: str
    median: float
    low: float
    high: float
    over_static: float | None


def measure_latency(
    runs: Mapping[tuple[str, str], Callable[[Tensor], object]], images: Tensor, threads: int = 1
) -> list[Latency]:
    """Measure in turn.

    Args:
        runs: What runs a network, by ``(program, network)``; those of the network ``"static"`` are the twins.
        images: What each is called with.
        threads: Of PyTorch; the others have to be made with as many.
    """
    with torch.no_grad(), limited_threads(threads):
        named = {str(key): (lambda run=run: run(images)) for key, run in runs.items()}
        found = compare(named, rounds=_ROUNDS, budget=_BUDGET)
    rows = []
    for program, network in runs:
        name, twin = str((program, network)), str((program, "static"))
        deciles = statistics.quantiles([1e3 * second for second in found.seconds[name]], n=10, method="inclusive")
        ratio = found.ratio(name, twin).median if network != "static" and twin in named else None
        rows.append(Latency(program, network, found.milliseconds(name), deciles[0], deciles[-1], ratio))
    return rows


def measure_export(
    task: BaseTask, file: ExportedFile, *, batch: int | Literal["dynamic"] = "dynamic", threads: int = 1, **options: Any
) -> tuple[list[Latency], Tensor]:
    """Measure an exported file, PyTorch, and both for the static twin of the network.

    Args:
        task: What was exported.
        file: The file.
        batch: As it was exported; of a file for any batch one image is measured.
        threads: Of each program.
        **options: The other arguments of :func:`~dyvision.tasks.exporting.export_task`.

    Returns:
        The times, and the images that they are of.
    """
    own = {name: options[name] for name in _OF_THE_NETWORK if name in options}
    made, twin = exportable(task, **own), static_twin(task)
    layer = str(task.hparams.layer) if twin is not None else "static"
    runs: dict[tuple[str, str], Callable[[Tensor], object]] = {
        (file.program, layer): file.runner(threads),
        ("PyTorch", layer): made.network,
    }
    with TemporaryDirectory(prefix="dyvision-") as folder:
        if twin is not None:
            other = export_task(twin, Path(folder, file.path.name), batch=batch, check=False, **options)
            runs |= {
                (file.program, "static"): other.runner(threads),
                ("PyTorch", "static"): exportable(twin, **own).network,
            }
        height, width = pair("image_size", options["image_size"], 1)
        shape = (1 if batch == "dynamic" else batch, int(task.hparams.in_chans), height, width)
        images = Images(shape, {}, made.images).draw(shape, torch.float32)
        return measure_latency(runs, images, threads), images


def latency_table(rows: Sequence[Latency], images: Tensor, threads: int = 1) -> FittingTable:
    """The times as a table."""
    shape = "x".join(map(str, images.shape))
    table = FittingTable(title=f"latency of images {shape}, {threads} thread{'s' * (threads != 1)}")
    table.add_column("program", NAME)
    table.add_column("network", NAME)
    table.add_column("median ms", 1, "right")
    table.add_column("10% to 90%", 3, "right")
    table.add_column("over static", 2, "right")
    for row in rows:
        ratio = "" if row.over_static is None else f"{row.over_static:.2f}"
        table.add_row(row.program, row.network, f"{row.median:.2f}", f"{row.low:.2f} to {row.high:.2f}", ratio)
    return table
