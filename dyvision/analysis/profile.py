"""Parameters, multiply-adds, activation memory and latency of a network: in total, per layer and per stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import nn

from dyvision.analysis._trace import Row, list_rows, measure_cost, measure_latency
from dyvision.analysis.cost import Cost
from dyvision.analysis.macs import evaluating, make_input
from dyvision.text import plain

if TYPE_CHECKING:
    from dyvision.tables import FittingTable

_CHEAPEST = (
    "MACs: multiply-adds for the whole input by the cheapest exact formulation of each dynamic layer: the convolution, "
    "the branch that predicts coefficients, and mixing (forming kernels, gates, low-rank paths)."
)
_EXECUTED = (
    "MACs: multiply-adds for the whole input as executed: every convolution and matrix product. Mixing and gates that "
    "are element-wise products, and Fourier transforms, are not counted."
)
_BOTH = "Not counted: normalisation, activations, pooling. Activations: what training keeps for the backward pass."
_TIMED = "Latency: median, without gradients."


@dataclass(frozen=True)
class Profile:
    """What a network costs.

    Attributes:
        rows: One per module, in the order of ``model.named_modules()``; their sums are the totals.
        input_size: ``[B, C, H, W]``.
        as_executed: Whether multiply-adds are those executed, or those of the cheapest exact formulations.
        latency_ms: Median time of a forward pass of the whole model; None if it was not measured.
        device: Where it was measured.
    """

    rows: tuple[Row, ...]
    input_size: tuple[int, ...]
    as_executed: bool
    latency_ms: float | None
    device: str

    @property
    def params(self) -> int:
        """Parameters."""
        return sum(row.params for row in self.rows)

    @property
    def cost(self) -> Cost:
        """Multiply-adds by their purpose, for the whole input."""
        return sum((row.cost for row in self.rows), Cost())

    @property
    def macs(self) -> int:
        """Multiply-adds for the whole input."""
        return self.cost.total

    @property
    def activation_bytes(self) -> int:
        """Bytes that autograd keeps for the backward pass, without parameters; 0 if all of them are frozen."""
        return sum(row.activation_bytes for row in self.rows)

    @property
    def counted(self) -> str:
        """What the numbers mean."""
        timed = "" if self.latency_ms is None else f" {_TIMED}"
        return f"{_EXECUTED if self.as_executed else _CHEAPEST} {_BOTH}{timed}"

    def stages(self) -> dict[str, Cost]:
        """Multiply-adds per stage (``layer1``, ``blocks.3``), in order; stages without any are left out."""
        return _group(self.rows)

    def table(self) -> FittingTable:
        """One line per module with multiply-adds, the rest together, and the total."""
        from dyvision.tables import NAME, FittingTable

        timed = self.latency_ms is not None
        size = " x ".join(map(str, self.input_size))
        table = FittingTable(f"input {size} on {self.device}", self.counted, elsewhere="--json FILE has them")
        table.add_column("module", NAME)
        table.add_column("class", importance=5)
        numbers = (("output", 4), ("parameters", 1), ("MACs\n(M)", 1), ("branch\n(M)", 3), ("mixing\n(M)", 3))
        for name, importance in (*numbers, ("activations\n(MiB)", 6), *((("ms", 2),) if timed else ())):
            table.add_column(name, importance, justify="right")
        shown = [row for row in self.rows if row.cost.total]
        for row in shown:
            shape = "x".join(map(str, (row.output_shape or ())[1:]))
            table.add_row(plain(row.name or "(model)"), row.kind, shape, *_numbers([row], row.latency_ms, timed))
        rest = [row for row in self.rows if not row.cost.total]
        spent = sum(row.latency_ms or 0 for row in rest)
        table.add_row(f"{len(rest)} others", "norms, activations", "", *_numbers(rest, spent, timed))
        table.add_section()
        table.add_row("total", "", "", *_numbers(self.rows, self.latency_ms, timed), style="bold")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dictionaries."""
        return {
            "input_size": list(self.input_size),
            "device": self.device,
            "counted": self.counted,
            "as_executed": self.as_executed,
            "params": self.params,
            "macs": self.macs,
            "macs_by_purpose": asdict(self.cost),
            "activation_bytes": self.activation_bytes,
            "latency_ms": self.latency_ms,
            "stages": {name: {"macs": cost.total, **asdict(cost)} for name, cost in self.stages().items()},
            "layers": [
                {
                    "name": row.name,
                    "class": row.kind,
                    "output_shape": None if row.output_shape is None else list(row.output_shape),
                    "calls": row.calls,
                    "params": row.params,
                    "macs": row.cost.total,
                    "macs_by_purpose": asdict(row.cost),
                    "activation_bytes": row.activation_bytes,
                    "latency_ms": row.latency_ms,
                }
                for row in self.rows
            ],
        }

    def save_picture(self, path: str | PathLike[str], title: str = "") -> None:
        """Draw the multiply-adds of each stage as bars; the suffix of the file chooses the format.

        Args:
            path: File to write, ``.png``, ``.svg`` or ``.pdf``.
            title: What the network is called.
        """
        from dyvision.analysis._plot import save_stages

        save_stages(self.stages(), path, title)

    def __str__(self) -> str:
        """Describe the totals in one line."""
        text = f"{self.params / 1e6:.3f} M parameters, {self.macs / 1e6:.1f} M multiply-adds"
        text += f", {self.activation_bytes / 2**20:.1f} MiB of activations"
        return text if self.latency_ms is None else f"{text}, {self.latency_ms:.1f} ms on {self.device}"


def profile(
    model: nn.Module,
    input_size: Sequence[int] = (1, 3, 224, 224),
    as_executed: bool = False,
    latency: bool = True,
    runs: int = 5,
) -> Profile:
    """Measure what a network costs, on the device and in the type of its parameters.

    Multiply-adds are those of convolutions and matrix products, the zeros of padding included. Of a dynamic layer, the
    cheapest of its exact formulations counts (:func:`dyvision.analysis.cost.cheapest_cost`), its gates and the mixing
    of its kernels included, so that methods compare whatever way their code takes.

    Args:
        model: A module called with one image tensor. It may return anything, and call a module several times. Left in
            the mode it was in.
        input_size: Shape of the input, ``[B, C, H, W]``. Multiply-adds, memory and time are for the whole batch.
        as_executed: Count what runs instead, as ``FlopCounterMode`` sees it.
        latency: Measure time as well.
        runs: Forward passes of which the median time is taken.

    Returns:
        Totals and one row per module.

    Raises:
        ValueError: If ``input_size`` is not four positive integers, or ``runs`` is less than 1.

    Example:
        >>> import dyvision
        >>> result = profile(dyvision.create_model("resnet18"), latency=False)
        >>> print(f"{result.params / 1e6:.2f} M parameters, {result.macs / 1e6:.1f} M multiply-adds")
        11.69 M parameters, 1814.1 M multiply-adds
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, got {runs!r}")
    x = make_input(model, input_size)
    rows = list_rows(model)
    with evaluating(model):
        measure_cost(model, x, rows, as_executed)
        total = measure_latency(model, x, rows, runs) if latency else None
    return Profile(tuple(rows.values()), tuple(x.shape), as_executed, total, str(x.device))


def stage_of(name: str) -> str:
    """Stage of a module: its name up to the first part that ends with a digit, or else the module that contains it.

    Example:
        >>> [stage_of(name) for name in ("blocks.3.0.conv_pw", "body.layer2.1.conv1", "rpn.head.cls_logits", "fc")]
        ['blocks.3', 'body.layer2', 'rpn.head', 'fc']
    """
    *parents, _ = name.split(".")
    for depth, part in enumerate(parents, 1):
        if re.search(r"\d$", part):
            return ".".join(parents[:depth])
    return ".".join(parents) or name or "(model)"


def _group(rows: Iterable[Row]) -> dict[str, Cost]:
    stages: dict[str, Cost] = {}
    for row in rows:
        if row.cost.total:
            stage = stage_of(row.name)
            stages[stage] = stages.get(stage, Cost()) + row.cost
    return stages


def _numbers(rows: Sequence[Row], milliseconds: float | None, timed: bool) -> list[str]:
    cost = sum((row.cost for row in rows), Cost())
    memory = sum(row.activation_bytes for row in rows) / 2**20
    values = [f"{sum(row.params for row in rows):,}"]
    values += [f"{value / 1e6:.2f}" if value else "" for value in (cost.total, cost.branch, cost.mixing)]
    values.append(f"{memory:.2f}" if memory else "")
    return [*values, f"{milliseconds or 0:.2f}"] if timed else values
